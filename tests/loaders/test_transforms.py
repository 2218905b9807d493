"""People's own transforms in the workers and on the device: their random numbers, and what is refused."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

import alexnet_fast as af
from alexnet_fast import Loader, UsageError
from alexnet_fast.images import finish_batch

TRANSFORMS = {
    "RandAugment": v2.RandAugment(),
    "ColorJitter": v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
    "RandomErasing": v2.RandomErasing(p=0.7),
}


def add_drawn_noise(image: torch.Tensor) -> torch.Tensor:
    """Draws from all three generators that people use, and changes the image in place."""
    image += torch.randint(0, 9, image.shape, dtype=torch.uint8)
    image[0, 0, 0] = random.randrange(256)
    image[0, 0, 1] = int(np.random.randint(256))  # noqa: NPY002
    return image


@pytest.fixture
def open_with(packed: Path) -> Iterator[Callable[..., Loader]]:
    """``open_with(image_transform, ...)``: batches of 8 images of 32 pixels, uint8; closed at the end."""
    opened: list[Loader] = []

    def open_(transform: Any, **settings: Any) -> Loader:
        defaults = {"backend": "torchvision", "device": "cpu", "batch_size": 8, "image_size": 32, "dtype": "uint8"}
        opened.append(af.open_loader(packed, image_transform=transform, **{**defaults, **settings}))
        return opened[-1]

    yield open_
    for loader in opened:
        loader.close()


def pixels(loader: Loader) -> dict[int, torch.Tensor]:
    return {
        record: image
        for batch in loader
        for record, image in zip(batch.records.tolist(), batch.images.clone(), strict=True)
    }


@pytest.mark.parametrize("name", [*TRANSFORMS, "all generators"])
def test_random_numbers_follow_seed_epoch_and_record(name: str, open_with: Callable[..., Loader]) -> None:
    transform = TRANSFORMS.get(name, add_drawn_noise)
    first = open_with(transform, num_workers=2)
    epochs = [pixels(first), pixels(first)]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    for num_workers, batch_size in ((0, 8), (1, 12), (3, 16)):
        random.seed(num_workers)
        torch.manual_seed(num_workers)
        other = open_with(transform, num_workers=num_workers, batch_size=batch_size)
        for want in epochs:
            got = pixels(other)
            assert all(torch.equal(got[record], want[record]) for record in got)
    random.setstate(states[0])
    torch.set_rng_state(states[2])
    resumed = open_with(transform, num_workers=2, start_epoch=1, start_step=3)
    got = pixels(resumed)
    assert len(got) == 24 and all(torch.equal(got[record], epochs[1][record]) for record in got)
    plain = pixels(open_with(None, num_workers=2))
    changed = [not torch.equal(plain[record], epochs[0][record]) for record in plain]
    assert np.mean(changed) > 0.5
    seeds = pixels(open_with(transform, num_workers=2, seed=1))
    assert not any(torch.equal(seeds[r], epochs[0][r]) for r in seeds if r in epochs[0])


def test_the_callers_random_numbers_are_left_alone(open_with: Callable[..., Loader]) -> None:
    for num_workers in (0, 2):
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        want = random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)
        list(open_with(add_drawn_noise, num_workers=num_workers))
        assert (random.random(), np.random.random(), torch.rand(1)) == want  # noqa: NPY002


def test_a_uint8_result_is_normalised_and_a_float_one_handed_out_as_it_is(open_with: Callable[..., Loader]) -> None:
    raw = pixels(open_with(None))
    normalised = pixels(open_with(lambda image: 255 - image, dtype="float32"))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    for record, image in raw.items():
        assert (normalised[record] - ((255 - image) / 255 - mean) / std).abs().max() < 1e-5
    for dtype in ("float32", "bfloat16"):
        floats = pixels(open_with(v2.ToDtype(torch.float32, scale=True), dtype=dtype))
        for record, image in raw.items():
            assert floats[record].dtype == getattr(torch, dtype)
            assert (floats[record].float() - image / 255).abs().max() < 0.01


def mirrored(image: torch.Tensor) -> torch.Tensor:
    """Its memory is in the order of HWC."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1).flip(2)


KINDS = {
    "other strides": mirrored,
    "an image of tv_tensors": lambda image: tv_tensors.Image(image.flip(2)),
    "an expanded grey image": lambda image: image.flip(2).float().mean(0, keepdim=True).byte().expand(3, -1, -1),
    "a float that needs a gradient": lambda image: image.flip(2).float().requires_grad_(),
}


@pytest.mark.parametrize("dtype", ["uint8", "float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_result_may_lie_in_memory_as_it_likes(kind: str, dtype: str, open_with: Callable[..., Loader]) -> None:
    """What arrives is what the function gives for the untouched crop, however its result is laid out."""
    if kind.startswith("a float") and dtype == "uint8":
        pytest.skip("floats are not handed out as uint8")
    crops = pixels(open_with(None, num_workers=0, train=False))
    for num_workers in (0, 2):
        got = pixels(open_with(KINDS[kind], num_workers=num_workers, train=False, dtype=dtype))
        assert crops.keys() == got.keys()
        for record, crop in crops.items():
            expected = KINDS[kind](crop.contiguous()).detach().as_subclass(torch.Tensor)
            if expected.dtype == torch.uint8 and dtype != "uint8":
                expected = finish_batch(expected[None], None, getattr(torch, dtype))[0]
            assert torch.equal(got[record], expected.to(got[record].dtype))


def test_each_view_gets_random_numbers_of_its_own(open_with: Callable[..., Loader]) -> None:
    def noise(image: torch.Tensor) -> torch.Tensor:
        return torch.randint(0, 256, image.shape, dtype=torch.uint8)

    for batch in open_with(noise, views=2, num_workers=2):
        first, second = batch.images
        assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_numpy_functions_are_taken(open_with: Callable[..., Loader]) -> None:
    raw = pixels(open_with(None))
    mirrored = pixels(open_with(lambda image: np.ascontiguousarray(image.numpy()[:, :, ::-1])))
    assert all(torch.equal(mirrored[record], raw[record].flip(2)) for record in raw)


def _fails_later(image: torch.Tensor) -> torch.Tensor:
    if image.float().std() > 1:
        raise ValueError("no such\nimage")
    return image


@pytest.mark.parametrize(
    ("transform", "settings", "text"),
    [
        (lambda image: image[:, :20], {}, r"tensor \(3, 32, 32\), got torch.uint8 \(3, 20, 32\).*image_size sets"),
        (lambda image: None, {}, "must return a tensor .*got NoneType"),
        (lambda image: image.long(), {}, "got torch.int64"),
        (lambda image: image / 255, {}, "floating-point images where uint8 ones are asked for"),
        (lambda image: 1 / 0, {}, r"fails on a grey image: ZeroDivisionError: division by zero \(.*test_transforms"),
        (add_drawn_noise, {"options": {"workers": "thread"}, "num_workers": 2}, "needs worker processes"),
        (add_drawn_noise, {"backend": "synthetic"}, "the synthetic backend has none"),
        ("RandAugment", {}, "image_transform must be something that can be called, got .?RandAugment"),
        (lambda image: image, {"options": {"context": "spawn"}, "num_workers": 1}, "cannot be sent to worker proc"),
    ],
)
def test_what_cannot_be_done_is_said_when_opened(
    transform: Any, settings: dict[str, Any], text: str, open_with: Callable[..., Loader]
) -> None:
    with pytest.raises(UsageError, match=text):
        open_with(transform, **settings)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_transform_that_fails_names_the_record(num_workers: int, open_with: Callable[..., Loader]) -> None:
    loader = open_with(_fails_later, num_workers=num_workers)
    with pytest.raises(UsageError, match=r"fails on record \d+: ValueError: no such image \(.*line \d+\)") as caught:
        list(loader)
    assert int(re.findall(r"record (\d+)", str(caught.value))[0]) in loader.order(0)[:8]


@pytest.mark.parametrize(
    ("transform", "text"),
    [
        (lambda images, labels: 1 / 0, "batch_transform fails: ZeroDivisionError"),
        (lambda images, labels: (images, labels, 1), "must return images, or images and labels, got tuple"),
        (lambda images: None, "must return images, or images and labels, got NoneType"),
    ],
)
def test_a_batch_transform_that_fails_says_so(packed: Path, transform: Any, text: str) -> None:
    with (
        af.open_loader(packed, batch_size=8, image_size=32, device="cpu", batch_transform=transform) as loader,
        pytest.raises(UsageError, match=text),
    ):
        next(iter(loader))


def test_spawned_workers_and_a_module_level_transform(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\ndef invert(image):\n    return 255 - image if torch.rand(1) < 0.5 else image\n"
    )
    (tmp_path / "script.py").write_text(
        "import alexnet_fast as af\n"
        "from mine import invert\n"
        "if __name__ == '__main__':\n"
        "    sums = []\n"
        "    for context in ('spawn', 'fork'):\n"
        f"        with af.open_loader({str(packed)!r}, batch_size=8, image_size=32, dtype='uint8', device='cpu',\n"
        "                            backend='torchvision', num_workers=1, image_transform=invert,\n"
        "                            options={'context': context}) as loader:\n"
        "            sums.append([int(batch.images.sum()) for batch in loader])\n"
        "    print(len(sums[0]), sums[0] == sums[1])\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=100, check=False,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("6 True\n", "")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"spilt": "val"}, "no option 'spilt'; did you mean split?"),
        ({"batchsize": 4}, "no option 'batchsize'; did you mean batch_size?"),
        ({"zzzzzzzz": 4}, "no option 'zzzzzzzz'; it has: dataset, split"),
        ({"records": [0, 99]}, "records names record 99, and the split's go from 0 to 52"),
        ({"records": [True] * 5}, "a mask of 5 values, where the split has 53"),
        ({"records": [0.5, 1.5]}, "whole numbers or True and False, got float64"),
        ({"records": 2.0}, "fraction must be a number over 0 and up to 1, got 2.0"),
        ({"records": "train.txt"}, "records must be a list of record numbers"),
        ({"records": []}, "records selects no record"),
        ({"records": lambda seed, epoch: None}, "returned None"),
        ({"weights": [1, 2]}, "one number for each of the split's 53 records"),
        ({"weights": [0] * 53}, "one of them over 0"),
        ({"weights": [-1] + [1] * 52}, "finite numbers from 0 up"),
        ({"weights": [1] * 53, "split": "val"}, "weights need train=True"),
        ({"weights": [1] * 53, "records": lambda seed, epoch: [1]}, "exclude each other"),
        ({"batch_transform": print, "batch_transform_at": "later"}, "batch_transform_at must be one of"),
        ({"views": 0}, "views must be a whole number from 1 up"),
    ],
)
def test_wrong_options_are_named(packed: Path, settings: dict[str, Any], text: str) -> None:
    defaults = {"image_size": 32, "batch_size": 2, "device": "cpu"}
    with pytest.raises(UsageError) as caught, af.open_loader(packed, **{**defaults, **settings}) as loader:
        next(iter(loader))
    assert text in str(caught.value)


def test_shares_are_nested_and_even_over_classes(packed: Path) -> None:
    def drawn(share: Any) -> np.ndarray[Any, Any]:
        with af.open_loader(packed, split="train", train=False, device="cpu", records=share) as loader:
            return loader.order(0)

    reader = af.ShardReader(packed, "train")
    half, fifth = drawn(0.5), drawn(af.Share(0.2))
    counts = np.bincount(reader.labels, minlength=4)
    assert np.bincount(reader.labels[half], minlength=4).tolist() == np.round(counts / 2).astype(int).tolist()
    assert set(fifth) <= set(half) and len(fifth) == np.round(counts / 5).sum()
    assert drawn(af.Share(0.5, seed=1)).tolist() != half.tolist()
    assert len(drawn(af.Share(0.5, per_class=False))) == 26
    assert drawn(1.0).tolist() == list(range(53))


def test_weights_are_kept_in_proportion_and_differ_by_epoch_and_rank(packed: Path) -> None:
    weights = np.where(np.arange(53) == 7, 5.0, 0.1)
    loaders = [af.open_loader(packed, device="cpu", weights=weights, rank=rank, world_size=2) for rank in (0, 1)]
    drawn = np.concatenate([loader.order(epoch) for loader in loaders for epoch in range(200)])
    assert len(drawn) == 2 * 26 * 200
    share = weights[7] / weights.sum()
    assert abs((drawn == 7).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(drawn))
    rest = np.bincount(drawn[drawn != 7], minlength=53)
    assert rest[np.arange(53) != 7].min() > 30  # 104 are expected of each
    assert loaders[0].order(0).tolist() != loaders[0].order(1).tolist() != loaders[1].order(0).tolist()
    for loader in loaders:
        loader.close()


def test_a_script_that_ends_in_mid_epoch_says_nothing(packed: Path) -> None:
    for way in ("", "sys.exit(0)", "raise SystemExit", "loader.close()", "kept = next(steps)"):
        code = (
            "import sys, alexnet_fast as af\n"
            f"loader = af.open_loader({str(packed)!r}, backend='torchvision', device='cpu', batch_size=4,\n"
            "                        image_size=32, num_workers=2)\n"
            f"steps = iter(loader)\nbatch = next(steps)\n{way}\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), way
