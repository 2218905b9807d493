"""The AlexNets: five convolutions and three fully connected layers, at any number of classes and image size.

| name | what it is | parameters at 1,000 classes, 224 pixels |
|---|---|---|
| alexnet | the textbook network: one tower, no normalisation | 62,378,344 |
| alexnet-paper | Krizhevsky, Sutskever, Hinton 2012: groups of two, local response normalisation | 60,965,224 |
| alexnet-owt | Krizhevsky 2014, "One weird trick": torchvision's, weights interchangeable both ways | 61,100,840 |
| alexnet-bn | batch normalisation, light dropout | 62,387,912 |
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ..config import MODELS
from ..errors import UsageError
from .initialisation import draw_weights
from .response_norm import ResponseNorm

# The paper writes k + alpha * sum; PyTorch divides alpha by the window first, so its 1e-4 is 5e-4 there.
_LRN_SIZE, _LRN_ALPHA, _LRN_BETA, _LRN_K = 5, 1e-4, 0.75, 2.0
_POOL = 6  # side of the last feature map at 224 pixels, which the first fully connected layer was made for
_PUBLISHED_STRIDE = 4
PUBLISHED_SIZE, SMALLEST_SIZE = 224, 21  # side of the images, pixels: as published, and where a pixel is left
_MOST_HIDDEN = 16_384
INITS = ("scaled", "published")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What tells one AlexNet from another.

    Attributes:
        channels: outputs of the five convolutions. groups: of each of them.
        hidden: width of the first two fully connected layers.
        norm: after the first two ReLUs ('lrn'), between every convolution or hidden layer and its ReLU ('batch'), none.
        dropout: probability before each of the first two fully connected layers.
        published: the initial weights that the network is known by: 'default' is PyTorch's, 'paper' N(0, 0.01) with the
            paper's biases of 1, 'he' He et al. 2015.
        init: 'scaled' draws weights that give every layer outputs of about unit scale, 'published' those above.
        any_size: False keeps the 6 x 6 input of the first fully connected layer at every image size, so that weights
            made elsewhere fit.
        small_stem: kernel of the first convolution for images below 112 pixels.
        stem_stride: of the first convolution; None: 4 as published from 112 pixels up, 2 from 48, 1 below.
    """

    channels: tuple[int, int, int, int, int]
    groups: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)
    hidden: int = 4096
    norm: Literal["none", "lrn", "batch"] = "none"
    dropout: float = 0.5
    published: Literal["default", "paper", "he"] = "he"
    init: Literal["scaled", "published"] = "scaled"
    any_size: bool = True
    small_stem: int = 11
    stem_stride: int | None = None


ARCHITECTURES: dict[str, Architecture] = {
    "alexnet": Architecture(channels=(96, 256, 384, 384, 256)),
    "alexnet-paper": Architecture(
        channels=(96, 256, 384, 384, 256), groups=(1, 2, 1, 2, 2), norm="lrn", published="paper"
    ),
    "alexnet-owt": Architecture(channels=(64, 192, 384, 256, 256), published="default", any_size=False),
    "alexnet-bn": Architecture(channels=(96, 256, 384, 384, 256), norm="batch", dropout=0.2, small_stem=5),
}


class AlexNet(nn.Module):
    """One AlexNet: ``features``, ``avgpool``, ``classifier``, named and ordered as torchvision's.

    Attributes:
        architecture: what it was built from.
        image_size: side of the images it was built for, pixels; others of about that size work as well.
    """

    def __init__(self, architecture: Architecture, num_classes: int, image_size: int) -> None:
        super().__init__()
        a = architecture
        self.architecture, self.num_classes, self.image_size = a, num_classes, image_size
        kernel, stride, padding = stem(a, image_size)
        shapes = ((kernel, stride, padding), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))
        layers: list[nn.Module] = []
        inputs = 3
        for i, (outputs, groups, (k, s, p)) in enumerate(zip(a.channels, a.groups, shapes, strict=True)):
            layers.append(nn.Conv2d(inputs, outputs, k, s, p, groups=groups, bias=a.norm != "batch"))
            if a.norm == "batch":
                layers.append(nn.BatchNorm2d(outputs))
            relu, pool = nn.ReLU(inplace=True), nn.MaxPool2d(kernel_size=3, stride=2)
            if a.norm == "lrn" and i < 2:
                layers += [relu, ResponseNorm(_LRN_SIZE, _LRN_ALPHA * _LRN_SIZE, _LRN_BETA, _LRN_K), pool]
            else:
                # Pooling first gives the same outputs and gradients to the bit, and leaves ReLU a quarter of the work.
                layers += [pool, relu] if i in (0, 1, 4) else [relu]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        side = min(_POOL, feature_sizes(a, image_size)[-1]) if a.any_size else _POOL
        self.avgpool = nn.AdaptiveAvgPool2d((side, side))
        self.classifier = nn.Sequential(
            nn.Dropout(a.dropout),
            *_hidden(inputs * side * side, a),
            nn.Dropout(a.dropout),
            *_hidden(a.hidden, a),
            nn.Linear(a.hidden, num_classes),
        )
        if not self.classifier[-1].weight.is_meta:  # there torch would import its compiler to draw: 4 CPU seconds
            draw_weights(self.features, self.classifier, a.published if a.init == "published" else "scaled")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, num_classes) of normalised images (N, 3, S, S)."""
        return self.classifier(torch.flatten(self.avgpool(self.features(images)), 1))  # type: ignore[no-any-return]

    def hidden(self, images: torch.Tensor) -> torch.Tensor:
        """What the last hidden layer makes of normalised images (N, 3, S, S), behind its ReLU: (N, hidden units).

        The vectors by whose distance the paper finds images alike (figure 4, right).
        """
        return self.classifier[:-1](torch.flatten(self.avgpool(self.features(images)), 1))  # type: ignore[no-any-return]


def _hidden(inputs: int, a: Architecture) -> list[nn.Module]:
    if a.norm == "batch":
        return [nn.Linear(inputs, a.hidden, bias=False), nn.BatchNorm1d(a.hidden), nn.ReLU(inplace=True)]
    return [nn.Linear(inputs, a.hidden), nn.ReLU(inplace=True)]


def stem(architecture: Architecture, image_size: int) -> tuple[int, int, int]:
    """(kernel, stride, padding) of the first convolution: 11, 4, 2 as published from 112 pixels up.

    Small images get a smaller stride, because at 64 pixels a stride of 4 leaves maps of 15, 7, 3 and 1.
    """
    kernel = 11 if image_size >= 112 else architecture.small_stem
    own = _PUBLISHED_STRIDE if image_size >= 112 else 2 if image_size >= 48 else 1
    return kernel, architecture.stem_stride or own, 2


def feature_sizes(architecture: Architecture, image_size: int) -> list[int]:
    """Sides of the feature maps after the first convolution and after each of the three pools: 55, 27, 13, 6 at 224.

    Raises:
        UsageError: the images are so small that nothing is left.
    """
    kernel, stride, padding = stem(architecture, image_size)
    sizes = [(image_size + 2 * padding - kernel) // stride + 1]
    for _ in range(3):
        sizes.append((sizes[-1] - 3) // 2 + 1)
    if sizes[-1] < 1:
        raise UsageError(
            f"images of {image_size} pixels leave nothing after a first stride of {stride} and three pools: "
            "an AlexNet needs 21 pixels a side, 35 at a stride of 2 and 63 at 4"
        )
    return sizes


def create_model(
    name: str,
    num_classes: int = 1000,
    image_size: int = 224,
    *,
    width: float = 1.0,
    hidden: int | None = None,
    dropout: float | None = None,
    stem_stride: int | None = None,
    init: Literal["scaled", "published"] = "scaled",
) -> AlexNet:
    """A freshly initialised AlexNet, float32, on the CPU.

    Args:
        name: one of `alexnet_fast.config.MODELS`.
        num_classes: outputs of the last layer, 1 or more.
        image_size: side of the images it will see, pixels, 21 or more. From 112 up the network is the published one;
            below, the stride of the first convolution is smaller.
        width: factor on the channels and hidden units, for trials; 1 is the published network.
        hidden: units of the first two fully connected layers, 8 or more, in place of the network's own, whatever width.
        dropout: probability in place of the network's own.
        stem_stride: of the first convolution, 1 to 4, in place of the network's own.
        init: 'scaled' draws weights that give every layer outputs of about unit scale and the logits a tenth of it;
            without batch normalisation, with most of the mean of each fully connected unit's weights taken off;
            'published' draws those that the network is known by: N(0, 0.01) and biases of 1 for alexnet-paper,
            PyTorch's for alexnet-owt, He et al. 2015 for the others.

    Raises:
        UsageError: an argument is out of its range; the text says which.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    if num_classes < 1:
        raise UsageError(f"num_classes must be a whole number from 1 up, got {num_classes!r}")
    architecture = ARCHITECTURES[name]
    if dropout is not None:
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout must be in 0..1, 1 excluded, got {dropout!r}")
        architecture = replace(architecture, dropout=float(dropout))
    if stem_stride is not None:
        if stem_stride not in (1, 2, 3, 4):
            raise UsageError(f"stem_stride must be 1, 2, 3 or 4, got {stem_stride!r}")
        architecture = replace(architecture, stem_stride=stem_stride)
    if init not in INITS:
        raise UsageError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    architecture = replace(architecture, init=init)
    if width != 1:
        architecture = _scaled(architecture, width)
    if hidden is not None:
        if isinstance(hidden, bool) or not isinstance(hidden, int) or not 8 <= hidden <= _MOST_HIDDEN:
            raise UsageError(f"hidden must be a whole number from 8 to {_MOST_HIDDEN}, got {hidden!r}")
        architecture = replace(architecture, hidden=hidden)
    return AlexNet(architecture, num_classes, image_size)


def _scaled(a: Architecture, width: float) -> Architecture:
    if not 0 < width <= 4:
        raise UsageError(f"width must be above 0 and at most 4, got {width!r}")

    def scale(n: int) -> int:
        return max(8, round(n * width / 8) * 8)  # eights suit the groups of two and the vector units

    c = a.channels
    channels = (scale(c[0]), scale(c[1]), scale(c[2]), scale(c[3]), scale(c[4]))
    return replace(a, channels=channels, hidden=scale(a.hidden))


def count_parameters(model: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def forward_flops(model: nn.Module, image_size: int) -> int:
    """Floating-point operations of one image's forward pass, a multiply and an add counted as two.

    Convolutions and fully connected layers only: the rest is under 1% of an AlexNet. Training takes about three times
    as many (the gradients of weights and of inputs cost one forward pass each; the first layer needs no second one).
    """
    from torch.utils.flop_counter import FlopCounterMode

    training, parameter = model.training, next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=parameter.device, dtype=parameter.dtype)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(image)
    model.train(training)
    return int(counter.get_total_flops())
