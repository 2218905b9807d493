"""Named sets of hyper-parameters. Each value can be overridden; a run's config.json holds those that it used.

| recipe | what it is |
|---|---|
| fast | the default: the best accuracy for the time; batch size and learning rate follow the number of images |
| paper | Krizhevsky, Sutskever, Hinton 2012, section 5: SGD, batch 128, rate 0.01 divided by 10 on a plateau |
| notebook | what tutorials do: Adam at 1e-3, batch 64, 15 epochs |
| record | small images in little time: a network of half the width, Muon, images that grow; for alexnet-bn |
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..config import RECIPES, Augmentation, TrainConfig
from ..errors import UsageError
from ..models import INITS

_MOST_EPOCHS = 100_000  # whose sizes of images are looked at one by one before a run begins
_MOST_MAGNITUDE = 30  # of torchvision's 31 steps
OPTIMIZERS = ("sgd", "adam", "muon")
SCHEDULES = ("constant", "linear", "cosine", "plateau")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every hyper-parameter of a training run.

    Attributes:
        epochs: passes over the training split.
        batch_size: images a step, over all ranks.
        optimizer: 'sgd' (with `momentum`, and `nesterov` or not), 'adam' (betas 0.9 and 0.999), or 'muon' (Jordan
            et al. 2024: orthogonal steps in all layers but the first and the last, which move by SGD at 5 times `lr`).
        lr: peak learning rate.
        weight_decay: L2 penalty as in the papers: added to the gradient. With 'muon', apart from it: the share by which
            the weights of its layers shrink in a step at a rate of 1.
        decay_norms_and_biases: whether it holds for normalisation layers and biases too.
        schedule: after the warm-up, 'constant', 'linear' or 'cosine' down to `final_lr` times the peak, or 'plateau':
            times `plateau_factor` whenever the validation error has not fallen for `plateau_patience` epochs.
        warmup: share of all steps in which the rate rises from 0 to its peak.
        warmup_steps: the same by number; the longer of the two counts, but this one at most for half the run.
        label_smoothing: share of the target spread over all classes (Szegedy et al. 2016).
        dropout: of the network; None: the network's own.
        stem_stride: of the network's first convolution; None: the network's own.
        width: factor on the network's channels; 1 is the published network.
        hidden: units of the first two fully connected layers; None: the network's own, times width.
        init: of the weights, 'scaled' or 'published'; see `alexnet_fast.create_model`.
        ema: decay per step of the running mean of the weights that is evaluated; 0: the weights themselves are.
        clip: largest norm of the gradient; 0: none.
        crop, area, flip: see `alexnet_fast.Augmentation`.
        mixup, cutmix: alpha of torchvision's MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019); 0: none. With
            both, each batch gets one or the other.
        randaugment: magnitude, 0 to 30, of torchvision's RandAugment with two operations (Cubuk et al. 2020); 0: none.
        color_noise: standard deviation of the PCA colour noise (paper, section 4.1; 0.1 there); 0: none.
        start_size: share of the image size at which training begins, growing in steps to the whole at `full_size_at`.
        full_size_at: share of the epochs after which images have their whole size.
    """

    name: str
    epochs: int
    batch_size: int
    optimizer: str = "sgd"
    lr: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = True
    schedule: str = "constant"
    warmup: float = 0.0
    warmup_steps: int = 0
    final_lr: float = 0.0
    plateau_factor: float = 0.1
    plateau_patience: int = 5
    label_smoothing: float = 0.0
    dropout: float | None = None
    stem_stride: int | None = None
    width: float = 1.0
    hidden: int | None = None
    init: str = "scaled"
    ema: float = 0.0
    clip: float = 0.0
    crop: str = "resized"
    area: tuple[float, float] = (0.08, 1.0)
    flip: str = "random"
    mixup: float = 0.0
    cutmix: float = 0.0
    randaugment: int = 0
    color_noise: float = 0.0
    start_size: float = 1.0
    full_size_at: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", Augmentation(crop=self.crop, area=self.area, flip=self.flip).area)
        _check_choice("optimizer", self.optimizer, OPTIMIZERS)
        _check_choice("schedule", self.schedule, SCHEDULES)
        _check_choice("init", self.init, INITS)
        for name, least in (
            ("epochs", 1),
            ("batch_size", 1),
            ("plateau_patience", 0),
            ("warmup_steps", 0),
            ("randaugment", 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise UsageError(f"{name} must be a whole number from {least} up, got {value!r}")
        if self.epochs > _MOST_EPOCHS:
            raise UsageError(f"epochs must be at most {_MOST_EPOCHS:,}, got {self.epochs!r}")
        for name in ("nesterov", "decay_norms_and_biases"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, got {getattr(self, name)!r}")
        _check_range("lr", self.lr, 0, math.inf, without_low=True)
        _check_range("weight_decay", self.weight_decay, 0, math.inf)
        _check_range("clip", self.clip, 0, math.inf)
        for name in ("color_noise", "mixup", "cutmix"):
            _check_range(name, getattr(self, name), 0, math.inf)
        if self.randaugment > _MOST_MAGNITUDE:
            raise UsageError(f"randaugment must be at most {_MOST_MAGNITUDE}, got {self.randaugment!r}")
        for name in ("warmup", "final_lr", "full_size_at", "plateau_factor"):
            _check_range(name, getattr(self, name), 0, 1)
        for name in ("momentum", "label_smoothing", "ema"):
            _check_range(name, getattr(self, name), 0, 1, without_high=True)
        for name in ("width", "dropout"):
            value = getattr(self, name)
            if (value is not None or name == "width") and (
                not isinstance(value, (int, float)) or isinstance(value, bool)
            ):
                raise UsageError(f"{name} must be a number, got {value!r}")
        _check_range("start_size", self.start_size, 0, 1, without_low=True)

    @property
    def network(self) -> dict[str, Any]:
        """The keyword arguments of `alexnet_fast.create_model` among the hyper-parameters."""
        return {name: getattr(self, name) for name in ("width", "hidden", "dropout", "stem_stride", "init")}

    @property
    def augmentation(self) -> Augmentation:
        """How the training loader cuts and mirrors."""
        return Augmentation(crop=self.crop, area=self.area, flip=self.flip)


def transforms(recipe: Recipe, num_classes: int) -> dict[str, Any]:
    """The options of `LoaderConfig` for what torchvision does to training images and batches; none where it is off."""
    if not (recipe.randaugment or recipe.mixup or recipe.cutmix):
        return {}
    from torchvision.transforms import v2

    mixing = [v2.MixUp(alpha=recipe.mixup, num_classes=num_classes)] if recipe.mixup else []
    mixing += [v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes)] if recipe.cutmix else []
    options: dict[str, Any] = {}
    if recipe.randaugment:
        options["image_transform"] = v2.RandAugment(num_ops=2, magnitude=recipe.randaugment)
    if mixing:
        options["batch_transform"] = mixing[0] if len(mixing) == 1 else v2.RandomChoice(mixing)
    return options


def made_harder_by(recipe: Mapping[str, Any]) -> str:
    """What training's loss and accuracy are measured under and validation's are not, in words for a legend.

    Args:
        recipe: hyper-parameters by name, as config.json holds them.
    """
    words = {"dropout": "dropout", "label_smoothing": "smoothed labels", "mixup": "MixUp", "cutmix": "CutMix"}
    return ", ".join(["augmented", *(word for name, word in words.items() if recipe.get(name, 0) != 0)])


def _check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_range(
    name: str, value: object, low: float, high: float, *, without_low: bool = False, without_high: bool = False
) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high
    if not fits or value == math.inf or (without_low and value == low) or (without_high and value == high):
        ends = f"{'above' if without_low else 'from'} {low} {'below' if without_high else 'to'} {high}"
        raise UsageError(f"{name} must be a number {ends}, got {value!r}")


_PAPER = Recipe(
    name="paper",
    epochs=90,
    batch_size=128,
    lr=0.01,
    weight_decay=5e-4,
    schedule="plateau",
    init="published",
    crop="shorter-side",
    color_noise=0.1,
)
_NOTEBOOK = Recipe(name="notebook", epochs=15, batch_size=64, optimizer="adam", lr=1e-3)
_FAST = Recipe(
    name="fast",
    epochs=16,
    batch_size=1024,
    lr=0.2,
    nesterov=True,
    weight_decay=5e-4,
    decay_norms_and_biases=False,
    schedule="linear",
    warmup=0.15,
    label_smoothing=0.1,
    clip=1.0,  # gradients begin at a norm of 5 to 25, so that the first steps are short ones whatever the rate
    dropout=0.2,  # few epochs underfit: 0.5 cost 13 points of top-1 after 4 epochs of ten classes of Tiny ImageNet
    area=(0.25, 1.0),
    flip="alternate",
)
_RECORD = Recipe(
    name="record",
    epochs=16,
    batch_size=256,
    optimizer="muon",
    lr=0.03,
    weight_decay=0.02,
    decay_norms_and_biases=False,
    schedule="linear",
    warmup=0.1,
    label_smoothing=0.1,
    clip=1.0,
    dropout=0.0,
    stem_stride=2,
    width=0.5,
    hidden=512,
    area=(0.35, 1.0),
    flip="alternate",
    start_size=0.5,
    full_size_at=1.0,
)
# On ImageNet the published start was seen to leave ln(classes) after 1,000 to 8,000 steps and in 3 runs of 8 never; the
# advice was to start anew after 5,000 in vain (github.com/BVLC/caffe, issues 59, 401 and 2085).
PUBLISHED_STEPS = 5_000
_FAST_STEPS_AN_EPOCH = 75  # below these, a smaller batch learns more from the same images
_NAMED = {"fast": _FAST, "paper": _PAPER, "notebook": _NOTEBOOK, "record": _RECORD}


def fast_batch_size(images: int) -> int:
    """The batch size of `fast`: the power of two that gives about 75 steps an epoch or more, from 16 to 1,024."""
    exponent = int(math.log2(max(1.0, images / _FAST_STEPS_AN_EPOCH)))
    return 1 << max(4, min(10, exponent))


def choose_recipe(config: TrainConfig, images: int) -> Recipe:
    """The recipe that `config` names, with its overrides, for a training split of so many images.

    Raises:
        UsageError: an override is unknown or out of its range; the text says which.
    """
    known = [f.name for f in fields(Recipe) if f.name != "name"]
    unknown = sorted(set(config.overrides) - set(known))
    if unknown:
        raise UsageError(f"no hyper-parameter is called {unknown[0]!r}; there are: {', '.join(known)}")
    given: dict[str, Any] = dict(config.overrides)
    for name in ("epochs", "batch_size", "lr"):
        value = getattr(config, name)
        if value is not None:
            if name in given and given[name] != value:
                raise UsageError(f"{name} was given twice: {value!r} and {given[name]!r}")
            given[name] = value
    if isinstance(given.get("area"), list):
        given["area"] = tuple(given["area"])
    recipe = replace(_NAMED[config.recipe], **given)
    if recipe.name == "fast":
        batch_size = recipe.batch_size if "batch_size" in given else fast_batch_size(images)
        fitted: dict[str, Any] = {"batch_size": batch_size, "lr": _fast_lr(config.model, batch_size)}
    else:
        fitted = _adaptation(recipe.name, config.model, recipe.epochs * (images // recipe.batch_size))
    return replace(recipe, **{name: value for name, value in fitted.items() if name not in given})


def usual_rate(config: TrainConfig, images: int) -> float:
    """The peak rate that the recipe of `config` would take if none were given."""
    others = {name: value for name, value in config.overrides.items() if name != "lr"}
    return choose_recipe(replace(config, lr=None, overrides=others), images).lr


def _fast_lr(model: str, batch_size: int) -> float:
    """In proportion to the square root of the batch; batch norm takes larger steps."""
    # With clipping at 1, 390 steps of ten classes of Tiny ImageNet, `alexnet` at half its width: 57% at this rate, 55%
    # at twice and 42% at four times it.
    at_64 = 0.1 if model == "alexnet-bn" else 0.05
    return round(at_64 * math.sqrt(batch_size / 64), 6)


def _adaptation(recipe: str, model: str, steps: int) -> dict[str, Any]:
    """What of `paper` or `notebook` is changed so that `model` learns in so many steps."""
    if recipe == "paper" and not (model == "alexnet-paper" and steps >= PUBLISHED_STEPS):
        return {"init": "scaled", "clip": 5.0}
    if recipe == "notebook" and model != "alexnet-bn":
        return {"lr": 2e-4, "warmup_steps": 50}
    return {}


def adapted(recipe: Recipe, model: str, steps: int) -> str | None:
    """What of the recipe was changed for this network and so many steps, and why, in a sentence; None for nothing."""
    needs = f"as published {model} needs about {PUBLISHED_STEPS:,} steps to begin to learn, and this run has {steps:,}"
    if (recipe.init, model) == ("published", "alexnet-paper") and steps < PUBLISHED_STEPS:
        return f"{needs}: expect a loss at ln(classes) to the end, or leave init to the recipe"
    wanted = _adaptation(recipe.name, model, steps)
    used = {name: value for name, value in wanted.items() if getattr(recipe, name) == value}
    if not used:
        return None
    named = _NAMED[recipe.name]
    if recipe.name == "notebook":
        why = f"{model} has no batch normalisation, and without it Adam at {named.lr:g} ends runs at chance"
    elif model == "alexnet-paper":
        why = needs
    else:
        why = f"the published weights are those of alexnet-paper, and {model} learns sooner without them"
    changes = ", ".join(f"{name} {value} (published: {getattr(named, name)})" for name, value in used.items())
    return f"recipe {recipe.name} adapted: {changes}, because {why}; --set {next(iter(used))}=... has the last word"


def named_recipes() -> Mapping[str, Recipe]:
    """The recipes as written, before they are fitted to a data set."""
    return {name: _NAMED[name] for name in RECIPES}


def learning_rate(recipe: Recipe, step: int, total_steps: int, plateau_scale: float = 1.0) -> float:
    """The rate of optimiser step `step`, counted from 0, of `total_steps`.

    Args:
        plateau_scale: what the plateaus met so far have made of the rate, for that schedule.
    """
    warmup_steps = max(recipe.warmup * total_steps, min(recipe.warmup_steps, total_steps / 2))
    if step < warmup_steps:
        return recipe.lr * (step + 1) / (warmup_steps + 1)
    if recipe.schedule == "plateau":
        return recipe.lr * plateau_scale
    if recipe.schedule == "constant":
        return recipe.lr
    done = (step - warmup_steps) / max(1.0, total_steps - warmup_steps)
    left = 1 - done if recipe.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return recipe.lr * (recipe.final_lr + (1 - recipe.final_lr) * left)


def training_size(recipe: Recipe, epoch: int, image_size: int) -> int:
    """Side of the training images in `epoch`, counted from 0: grows from start_size to the whole, in eighths."""
    grown = 1.0 if recipe.full_size_at == 0 else min(1.0, epoch / (recipe.full_size_at * recipe.epochs))
    share = recipe.start_size + (1 - recipe.start_size) * grown
    step = max(1, image_size // 8)
    return max(1, min(image_size, image_size - step * math.floor((1 - share) * image_size / step + 1e-9)))


@dataclass
class Plateau:
    """What the 'plateau' schedule remembers: the best validation error, and how long ago it was."""

    best: float = math.inf
    bad_epochs: int = 0
    scale: float = 1.0

    def update(self, recipe: Recipe, error: float) -> None:
        """Take in an epoch's validation error; a scale below 1 is how far the rate has been lowered."""
        if error < self.best:
            self.best, self.bad_epochs = error, 0
            return
        self.bad_epochs += 1
        if recipe.schedule == "plateau" and self.bad_epochs > recipe.plateau_patience:
            self.scale *= recipe.plateau_factor
            self.bad_epochs = 0
