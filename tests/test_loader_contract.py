"""What every backend promises, run over all of them. A new backend adds a line to `CASES`."""

from __future__ import annotations

import gc
import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from alexnet_fast import Batch, Loader, LoaderConfig, ShardReader, Share, UsageError, open_loader
from alexnet_fast.images import native
from alexnet_fast.loaders.dali import loader as dali
from alexnet_fast.loaders.resident import ResidentLoader


@dataclass(frozen=True)
class Case:
    """One backend in one setting.

    Attributes:
        backend, settings: go into LoaderConfig.
        equal_sizes: the backend takes only images of one size.
        exact: its images depend on (seed, epoch, record) alone, whatever the workers.
        reads: it reads the data set (synthetic does not).
        compiled: compiled code may be used.
        matrices: the resident backend as on a GPU, with its matrix products on the CPU.
    """

    name: str
    backend: str
    settings: dict[str, Any] = field(default_factory=dict)
    equal_sizes: bool = False
    exact: bool = True
    reads: bool = True
    compiled: bool = True
    matrices: bool = False
    marks: tuple[Any, ...] = ()


needs_dali = pytest.mark.skipif(dali.why_not("cpu") is not None, reason="DALI cannot run here")

CASES = [
    Case("torchvision-inline", "torchvision", {"num_workers": 0}),
    Case("torchvision-threads", "torchvision", {"num_workers": 2, "options": {"workers": "thread"}}),
    Case("torchvision-plain", "torchvision", {"num_workers": 2}, compiled=False),
    Case("torchvision-fork", "torchvision", {"num_workers": 2, "options": {"workers": "process", "context": "fork"}}),
    Case("dali", "dali", {"num_workers": 2, "device": "cpu"}, marks=(needs_dali,)),
    Case("resident", "resident", {"device": "cpu"}, equal_sizes=True),
    Case("resident-inline", "resident", {"device": "cpu", "num_workers": 0}, equal_sizes=True),
    Case("resident-threads", "resident", {"device": "cpu", "options": {"workers": "thread"}}, equal_sizes=True),
    Case("resident-matrices", "resident", {"device": "cpu"}, equal_sizes=True, matrices=True),
    Case("synthetic", "synthetic", exact=False, reads=False),
]


def _params(select: Callable[[Case], bool] = lambda case: True) -> list[Any]:
    return [pytest.param(case, id=case.name, marks=case.marks) for case in CASES if select(case)]


every_case = pytest.mark.parametrize("case", _params())
reading_case = pytest.mark.parametrize("case", _params(lambda c: c.reads))
exact_case = pytest.mark.parametrize("case", _params(lambda c: c.reads and c.exact))


@pytest.fixture
def open_case(packed: Path, packed_small: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Loader]]:
    """``open_case(case, split=..., ...)`` opens a loader of 32-pixel images, batch size 8; closed at the end."""
    opened = []

    def open_(case: Case, **settings: Any) -> Loader:
        if not case.compiled:
            monkeypatch.setattr(native, "compiled_code", lambda: None)  # workers are forked, and so have it too
        if "options" in settings:
            settings["options"] = {**case.settings.get("options", {}), **settings["options"]}
        dataset = packed_small if case.equal_sizes else packed
        defaults = {"dataset": dataset, "backend": case.backend, "batch_size": 8, "image_size": 32}
        config = LoaderConfig(**{**defaults, **case.settings, **settings})
        if case.matrices:
            loader: Loader = ResidentLoader(config, ShardReader(dataset, config.split))
        else:
            loader = open_loader(config)
        opened.append(loader)
        return loader

    yield open_
    for loader in opened:
        loader.close()


def joined(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([b.images for b in batches]).cpu(), torch.cat([b.labels for b in batches]).cpu()


def labels_of(loader: Loader, records: np.ndarray[Any, Any]) -> list[int]:
    reader = ShardReader(loader.config.dataset, loader.config.split)  # type: ignore[arg-type]
    return reader.labels[records].tolist()


@every_case
def test_shape_type_and_layout(case: Case, open_case: Callable[..., Loader]) -> None:
    for dtype in ("float32", "bfloat16", "uint8"):
        loader = open_case(case, dtype=dtype)
        batch = next(iter(loader))
        assert isinstance(batch, Batch)
        assert batch.images.shape == (8, 3, 32, 32)
        assert batch.images.dtype == getattr(torch, dtype)
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.shape == (8,) and batch.labels.dtype == torch.int64
        assert batch.images.device == batch.labels.device
        loader.close()


@every_case
def test_length_and_last_batch(case: Case, open_case: Callable[..., Loader]) -> None:
    train, val = open_case(case), open_case(case, split="val")
    assert len(train) == 53 // 8
    assert [len(b.labels) for b in train] == [8] * 6
    assert len(val) == 3
    assert [len(b.labels) for b in val] == [8, 8, 7]
    assert [len(b.images) for b in val] == [8, 8, 7]


@reading_case
@pytest.mark.parametrize("shorter", [None, 32, 48])
def test_evaluation_scales_the_shorter_side_and_shows_the_centre(
    case: Case, shorter: int | None, open_case: Callable[..., Loader]
) -> None:
    loader = open_case(case, split="val", eval_resize=shorter, dtype="uint8")
    ours, _ = joined(list(loader))
    reader = ShardReader(loader.config.dataset, "val")  # type: ignore[arg-type]
    show = v2.Compose([v2.Resize(shorter or 37, antialias=True), v2.CenterCrop(32)])
    for i in range(len(reader)):
        image = torch.from_numpy(np.array(Image.open(io.BytesIO(reader.read(i))).convert("RGB"))).permute(2, 0, 1)
        difference = (ours[i].int() - show(image).int()).abs().float()
        assert difference.mean() < 2, (i, difference.mean())  # another length gives 10 and more


@reading_case
def test_images_are_normalised(case: Case, open_case: Callable[..., Loader]) -> None:
    settings = {"split": "val", "batch_size": 23}
    images, _ = joined(list(open_case(case, dtype="float32", **settings)))
    raw, _ = joined(list(open_case(case, dtype="uint8", **settings)))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    assert raw.float().std() > 20
    assert (images - (raw.float() / 255 - mean) / std).abs().max() < (1e-4 if case.exact else 0.02)


@reading_case
def test_labels_follow_the_order_of_the_epoch(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    for epoch in range(2):
        order = loader.order(epoch)
        _, labels = joined(list(loader))
        assert labels.tolist() == labels_of(loader, order[:48])
    assert loader.order(0).tolist() != loader.order(1).tolist()
    val = open_case(case, split="val")
    for _ in range(2):
        assert joined(list(val))[1].tolist() == labels_of(val, np.arange(23))


@reading_case
def test_a_repeated_split_is_read_so_many_times_an_epoch(case: Case, open_case: Callable[..., Loader]) -> None:
    once, thrice = open_case(case), open_case(case)
    thrice.repeat_split(3)
    records = thrice.order(0)
    assert sorted(records.tolist()) == sorted(once.order(0).tolist() * 3)
    whole = len(records) // 8 * 8
    assert len(thrice) == len(records) // 8
    for _ in range(2):
        assert joined(list(thrice))[1].tolist() == labels_of(thrice, thrice.order(thrice.epoch - 1)[:whole])
    assert (thrice.order(0) != thrice.order(1)).any()


@reading_case
def test_unlabelled_split_gives_minus_one(case: Case, open_case: Callable[..., Loader]) -> None:
    _, labels = joined(list(open_case(case, split="test")))
    assert labels.tolist() == [-1] * 9


@reading_case
def test_images_go_with_their_labels(case: Case, open_case: Callable[..., Loader]) -> None:
    """The mean colour of an image of the fixtures tells its class, so a shuffle of one against the other shows."""
    means: dict[int, list[np.ndarray[Any, Any]]] = {}
    for split in ("val", "train"):
        images, labels = joined(list(open_case(case, split=split, train=False, dtype="uint8", batch_size=5)))
        colours = images.float().mean((2, 3)).numpy()
        grey = np.abs(colours - colours.mean(1, keepdims=True)).max(1) < 3
        for colour, label in zip(colours[~grey], labels[~torch.from_numpy(grey)].tolist(), strict=True):
            means.setdefault(label, []).append(colour)
    centres = {label: np.mean(colours, axis=0) for label, colours in means.items()}
    wrong = sum(
        min(centres, key=lambda other, c=colour: float(np.abs(centres[other] - c).sum())) != label
        for label, colours in means.items()
        for colour in colours
    )
    assert wrong <= 4  # of about 70; labels drawn at random get three in four wrong


@reading_case
@pytest.mark.parametrize("split", ["train", "val"])
def test_ranks_are_disjoint_and_cover(case: Case, split: str, open_case: Callable[..., Loader]) -> None:
    loaders = [open_case(case, split=split, rank=r, world_size=3, batch_size=4) for r in range(3)]
    seen: list[int] = []
    for loader in loaders:
        own = loader.order(0)
        batches = list(loader)
        assert len(batches) == len(loader)
        _, labels = joined(batches)
        assert labels.tolist() == labels_of(loader, own[: len(labels)])
        seen += own.tolist()
    assert len(seen) == len(set(seen))
    assert len(seen) == {"train": 51, "val": 23}[split]


@every_case
@pytest.mark.parametrize("split", ["train", "val"])
def test_resuming_at_a_step_equals_slicing(case: Case, split: str, open_case: Callable[..., Loader]) -> None:
    whole = list(open_case(case, split=split, start_epoch=1))
    part = list(open_case(case, split=split, start_epoch=1, start_step=2))
    assert len(part) == len(whole) - 2
    for a, b in zip(whole[2:], part, strict=True):
        assert torch.equal(a.labels, b.labels)
        if case.exact:
            assert torch.equal(a.images, b.images)


@every_case
def test_state_counts_what_was_handed_out(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    assert loader.state() == {"epoch": 0, "step": 0}
    first = iter(loader)
    next(first), next(first)
    assert loader.state() == {"epoch": 0, "step": 2}
    rest = list(first)
    assert loader.state() == {"epoch": 1, "step": 0}
    other = open_case(case)
    other.load_state({"epoch": 0, "step": 2})
    again = list(other)
    assert other.state() == {"epoch": 1, "step": 0}
    assert [b.labels.tolist() for b in again] == [b.labels.tolist() for b in rest]
    if case.exact:
        assert all(torch.equal(a.images, b.images) for a, b in zip(again, rest, strict=True))
    next(iter(other))
    assert other.state() == {"epoch": 1, "step": 1}


@every_case
def test_a_pass_left_early_is_followed_by_the_next_epoch(case: Case, open_case: Callable[..., Loader]) -> None:
    loader, fresh = open_case(case), open_case(case, start_epoch=1)
    for _ in loader:
        break
    second = list(loader)
    assert len(second) == 6
    for a, b in zip(second, fresh, strict=True):
        assert torch.equal(a.labels, b.labels)
        if case.exact:
            assert torch.equal(a.images, b.images)


@every_case
def test_an_abandoned_pass_does_not_disturb_the_next(case: Case, open_case: Callable[..., Loader]) -> None:
    loader, fresh = open_case(case), open_case(case, start_epoch=1)
    abandoned = iter(loader)
    next(abandoned)  # still referenced: nothing tells the loader that it will not be asked again
    got = list(loader)
    want = list(fresh)
    assert [b.labels.tolist() for b in got] == [b.labels.tolist() for b in want]
    if case.exact:
        assert all(torch.equal(a.images, b.images) for a, b in zip(got, want, strict=True))
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(abandoned)
    del abandoned
    gc.collect()
    assert len(list(loader)) == 6


@every_case
def test_batches_stay_valid_when_kept(case: Case, open_case: Callable[..., Loader]) -> None:
    for dtype, split in (("float32", "train"), ("uint8", "train"), ("uint8", "val")):
        loader = open_case(case, dtype=dtype, split=split, batch_size=2)
        kept, copies = [], []
        for batch in loader:
            kept.append(batch)
            copies.append((batch.images.clone(), batch.labels.clone()))
        for batch, (images, labels) in zip(kept, copies, strict=True):
            assert torch.equal(batch.images, images) and torch.equal(batch.labels, labels)
        loader.close()


@every_case
def test_two_loaders_at_once(case: Case, open_case: Callable[..., Loader]) -> None:
    train, val = open_case(case), open_case(case, split="val")
    alone = [b.labels.tolist() for b in open_case(case)]
    mixed = []
    val_steps = iter(val)
    for batch in train:
        mixed.append(batch.labels.tolist())
        next(val_steps, None)
    assert mixed == alone


@exact_case
def test_workers_and_batch_size_change_no_image(case: Case, open_case: Callable[..., Loader]) -> None:
    images, labels = joined(list(open_case(case, batch_size=4, dtype="uint8")))
    for num_workers in (0, 1, 3):
        other = open_case(case, num_workers=num_workers, batch_size=12, dtype="uint8")
        for i, batch in enumerate(other):
            part = slice(12 * i, 12 * (i + 1))
            assert torch.equal(batch.images, images[part]) and torch.equal(batch.labels, labels[part])
        other.close()


@reading_case
def test_same_seed_same_data_other_seed_other_data(case: Case, open_case: Callable[..., Loader]) -> None:
    first, again, other = (joined(list(open_case(case, seed=seed))) for seed in (0, 0, 1))
    assert torch.equal(first[1], again[1])
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    loader = open_case(case, train=True, split="val")
    one, two = joined(list(loader)), joined(list(loader))
    assert not torch.equal(one[0], two[0])


@every_case
def test_close_is_final_and_may_be_repeated(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    steps = iter(loader)
    next(steps)
    loader.close()
    loader.close()
    del steps
    with open_case(case) as other:
        assert other.description
        next(iter(other))


@every_case
def test_unknown_option_and_split_are_refused(case: Case, open_case: Callable[..., Loader]) -> None:
    with pytest.raises(UsageError, match="no_such_option"):
        open_case(case, options={"no_such_option": 1})
    with pytest.raises(UsageError, match="no split 'nosuch'"):
        open_case(case, split="nosuch")


@every_case
def test_records_and_their_names_go_with_the_images(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    order, seen = loader.order(0), []
    reader = ShardReader(loader.config.dataset, "train")  # type: ignore[arg-type]
    for batch in loader:
        images, labels = batch
        assert images is batch.images and labels is batch.labels
        assert batch.records.dtype == np.int64
        assert loader.keys(batch.records) == [reader.key(record) for record in batch.records.tolist()]
        if case.reads:
            assert batch.labels.tolist() == reader.labels[batch.records].tolist()
        seen += batch.records.tolist()
    assert seen == order[:48].tolist()
    val = open_case(case, split="val")
    assert np.concatenate([batch.records for batch in val]).tolist() == list(range(23))
    with pytest.raises(IndexError):
        loader.keys([53])


@every_case
@pytest.mark.parametrize("kind", ["numbers", "mask", "function"])
def test_a_part_of_the_records_is_read(case: Case, kind: str, open_case: Callable[..., Loader]) -> None:
    chosen = np.arange(3, 50, 2)
    records: Any = {
        "numbers": chosen.tolist(),
        "mask": np.isin(np.arange(53), chosen),
        "function": lambda seed, epoch: np.roll(chosen, epoch + seed),
    }[kind]
    loaders = [open_case(case, records=records, batch_size=4, rank=rank, world_size=2) for rank in (0, 1)]
    assert [len(loader) for loader in loaders] == [3, 3]
    for epoch in range(2):
        parts = [np.concatenate([batch.records for batch in loader]) for loader in loaders]
        assert sorted(np.concatenate(parts).tolist()) == chosen.tolist()
        if kind == "function":  # in the order that it gives
            assert np.stack(parts, axis=1).ravel().tolist() == np.roll(chosen, epoch).tolist()
        else:
            assert np.stack(parts, axis=1).ravel().tolist() != chosen.tolist()
    val = open_case(case, split="val", records=[5, 1, 7], batch_size=2)
    assert [batch.records.tolist() for batch in val] == [[5, 1], [7]]
    whole = open_case(case, split="val", batch_size=2).read([5, 1, 7])
    if case.reads:
        assert torch.equal(torch.cat([batch.images for batch in val]), whole.images)


@every_case
def test_records_change_between_epochs_without_new_workers(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    before = [batch.records.tolist() for batch in loader]
    assert len(before) == 6
    running = {child.pid for child in psutil.Process().children(recursive=True)}
    loader.set_records(range(20, 36))
    assert len(loader) == 2 and loader.num_records == 16
    assert sorted(record for batch in loader for record in batch.records.tolist()) == list(range(20, 36))
    loader.set_records(weights=[1.0] + [0.0] * 51 + [3.0])
    assert {record for batch in loader for record in batch.records.tolist()} == {0, 52}
    loader.set_records()
    assert len(list(loader)) == 6
    assert {child.pid for child in psutil.Process().children(recursive=True)} == running


@every_case
def test_a_part_resumes_in_mid_epoch_and_refuses_another(case: Case, open_case: Callable[..., Loader]) -> None:
    settings: dict[str, Any] = {"records": Share(0.5), "weights": np.arange(53), "batch_size": 4}
    loader = open_case(case, **settings)
    steps = iter(loader)
    next(steps), next(steps)
    state = loader.state_dict()
    rest = list(steps)
    again = open_case(case, **settings)
    again.load_state_dict(state)
    resumed = list(again)
    assert [batch.records.tolist() for batch in resumed] == [batch.records.tolist() for batch in rest]
    if case.exact:
        assert all(torch.equal(a.images, b.images) for a, b in zip(resumed, rest, strict=True))
    other = open_case(case, **{**settings, "records": Share(0.5, seed=1)})
    other.load_state_dict(state)
    with pytest.raises(UsageError, match="other records or weights"):
        next(iter(other))
    other.load_state_dict(loader.state_dict())  # the start of an epoch may read anything
    assert len(list(other)) == len(other)


@every_case
def test_a_batch_of_numbers_that_are_given(case: Case, open_case: Callable[..., Loader]) -> None:
    for split, batch_size in (("train", 8), ("val", 3)):
        loader = open_case(case, split=split, batch_size=batch_size)
        steps = iter(loader)
        kept = [next(steps), next(steps)]
        copies = [batch.images.clone() for batch in kept]
        numbers = np.concatenate([batch.records for batch in kept])[::-1]
        given = loader.read(numbers)
        assert given.records.tolist() == numbers.tolist()
        if case.reads:
            labels = torch.cat([batch.labels for batch in kept])
            assert torch.equal(given.labels, labels.flip(0))
            assert torch.equal(given.images, torch.cat([batch.images for batch in kept]).flip(0))
            assert given.images.is_contiguous(memory_format=torch.channels_last)
        first = given.images.clone()
        loader.read([0, 1])
        assert torch.equal(given.images, first)  # a later call takes nothing back
        rest = list(steps)  # and the pass goes on
        assert [b.records.tolist() for b in rest] == [
            b.records.tolist() for b in list(open_case(case, split=split, batch_size=batch_size))[2:]
        ]
        assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))
        assert loader.read([]).images.shape == (0, 3, 32, 32)
        with pytest.raises(UsageError, match="names record 53, and the split's go from 0 to"):
            loader.read([53])


@every_case
def test_two_views_of_each_image(case: Case, open_case: Callable[..., Loader]) -> None:
    single, double = open_case(case, dtype="uint8"), open_case(case, dtype="uint8", views=2)
    for one, two in zip(single, double, strict=True):
        first, second = two.images
        assert first.shape == second.shape == (8, 3, 32, 32) and two.labels.shape == (8,)
        assert first.is_contiguous(memory_format=torch.channels_last)
        if case.reads:
            assert torch.equal(first, one.images)
            difference = (first.int() - second.int()).abs().float().mean((1, 2, 3))
            assert (difference > 0.5).all()  # another crop of the same image
        again = double.read(two.records)
        if case.reads:
            assert torch.equal(again.images, two.images)
    with pytest.raises(UsageError, match="views=2 needs train=True"):
        open_case(case, split="val", views=2)


@every_case
def test_a_batch_transform_runs_on_the_device(case: Case, open_case: Callable[..., Loader]) -> None:
    plain = open_case(case, dtype="float32")
    mixed = open_case(case, dtype="float32", batch_transform=v2.MixUp(num_classes=4))
    state = torch.get_rng_state()
    for one, two in zip(plain, mixed, strict=True):
        assert two.labels.shape == (8, 4) and two.images.shape == one.images.shape
        share = two.labels.max(1).values.min().item()  # two neighbours of one class show none
        if case.reads:
            assert torch.allclose(two.labels.sum(1), torch.ones(8))
            around = one.images.roll(1, 0)
            wanted = [s * one.images + (1 - s) * around for s in (share, 1 - share)]
            assert min((two.images - want).abs().max().item() for want in wanted) < 1e-4
        again = mixed.read(two.records)
        assert torch.equal(again.images, two.images) and torch.equal(again.labels, two.labels)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's own random numbers are left alone
    seen = []

    def look(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.dtype)
        return 255 - images

    inverted = open_case(case, dtype="float32", batch_transform=look, batch_transform_at="uint8")
    for one, two in zip(open_case(case, dtype="float32"), inverted, strict=True):
        assert two.images.dtype == torch.float32
        assert torch.equal(two.labels, one.labels)
        if case.reads:
            mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
            std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
            wanted = ((1 - (one.images * std + mean)) - mean) / std
            assert (two.images - wanted).abs().max() < 0.03
    assert set(seen) == {torch.uint8}


@every_case
def test_what_people_ask_of_a_data_loader(case: Case, open_case: Callable[..., Loader]) -> None:
    loader = open_case(case)
    assert loader.batch_size == 8 and len(loader) == 6
    dataset = loader.dataset
    assert dataset is not None
    reader = ShardReader(loader.config.dataset, "train")  # type: ignore[arg-type]
    assert len(dataset) == 53 and dataset.classes == [f"n{i:08d}" for i in range(4)]
    assert dataset.class_to_idx[dataset.classes[3]] == 3 and dataset.targets == reader.labels.tolist()
    image, label = dataset[7]
    decoded = np.array(Image.open(io.BytesIO(reader.read(7))).convert("RGB"))
    assert image.dtype == torch.uint8 and label == reader.labels[7]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), decoded)
    assert torch.equal(dataset[-1][0], dataset[52][0])
    with pytest.raises(IndexError):
        dataset[53]
    loader.set_epoch(3)
    third = [batch.records.tolist() for batch in loader]
    assert third == [batch.records.tolist() for batch in open_case(case, start_epoch=3)]
    loader.load_state({"epoch": 4, "step": 2})
    loader.set_epoch(4)  # which comes next anyway: the step stays
    assert len(list(loader)) == 4
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.extend(batch.records.tolist() for batch in loader))
    thread.start()
    thread.join(60)
    assert found == [batch.records.tolist() for batch in open_case(case, start_epoch=5)]
