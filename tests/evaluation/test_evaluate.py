"""Evaluation: counts against a count by hand, test-time augmentation, and what is refused."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from alexnet_fast import LoaderConfig, TrainConfig, UsageError, evaluate, open_loader, train
from alexnet_fast.dataset import ClassInfo
from alexnet_fast.errors import DamagedDataError, StorageError
from alexnet_fast.evaluation import EvalResult
from alexnet_fast.evaluation.result import class_lines, confused_pairs
from alexnet_fast.models import Precision, choose_precision
from alexnet_fast.models.precision import cpu_bf16_instructions
from alexnet_fast.training import load_run
from alexnet_fast.training.scoring import predict_logits


@pytest.fixture(scope="module")
def run(packed_small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "run"
    config = TrainConfig(
        dataset=packed_small, run_dir=folder, model="alexnet-bn", epochs=2, batch_size=8, image_size=32, num_workers=1,
        device="cpu", precision="fp32", overrides={"width": 0.0625},
    )  # fmt: skip
    train(config, say=lambda line: None)
    return folder


def evaluate_here(run, dataset, **options):
    return evaluate(run, dataset, num_workers=1, device="cpu", precision="fp32", **options)


def test_the_scores_are_those_counted_by_hand(run, packed_small, tmp_path):
    result = evaluate_here(run, packed_small, batch_size=10)
    model = load_run(run).model
    config = LoaderConfig(dataset=packed_small, split="val", batch_size=1, image_size=32, num_workers=0, device="cpu")
    with open_loader(config) as loader, torch.no_grad():
        logits, labels = zip(*[(model(images), labels) for images, labels in loader], strict=True)
    logits, labels = torch.cat(logits), torch.cat(labels)
    assert result.images == len(labels) == 23
    assert result.top1 == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert result.loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert result.top5 == 1.0  # four classes
    np.testing.assert_array_equal(result.labels, labels.numpy())
    np.testing.assert_array_equal(result.predictions[:, 0], logits.argmax(1).numpy())
    np.testing.assert_allclose(result.probabilities.sum(1), 1, rtol=1e-5)
    confusion = result.confusion()
    assert confusion.sum() == 23 and confusion.trace() == round(result.top1 * 23)
    result.write_json(tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content == {
        "split": "val", "images": 23, "pictures": 23, "top1": result.top1, "balanced_top1": result.balanced_top1,
        "top5": 1.0, "loss": result.loss, "tta": "none", "largest_class": "n00000000", "largest_share": 6 / 23,
        "classes_checked": True,
    }  # fmt: skip
    hits, sizes = (logits.argmax(1) == labels).float(), labels.bincount()
    own = [hits[labels == label].mean().item() for label in range(4)]
    assert sizes.tolist() == [6, 6, 6, 5] and result.balanced_top1 == pytest.approx(sum(own) / 4)
    assert f"balanced accuracy (each class counts alike) {result.balanced_top1:.2%}" in result.closing_lines()
    assert "always answering class 0, the largest class, gives 26.09%" in result.closing_lines()
    assert "Top-5 counts all 4 classes" in result.closing_lines()
    assert "top-1" in result.closing_lines() and "best.pt" in result.closing_lines()


def test_the_result_of_training_is_that_of_evaluation(run, packed_small):
    best = max(json.loads(line)["val_top1"] for line in (run / "metrics.jsonl").read_text().splitlines())
    result = evaluate_here(run, packed_small)
    assert result.top1 == pytest.approx(best)
    assert f"on split val of {packed_small.name}: 23 images, top-1 {best:.2%}" in repr(result)


def test_flip_averages_the_two_sides(run, packed_small):
    model = load_run(run).model
    images = torch.randn(3, 3, 32, 32)
    fp32 = Precision("fp32", "cpu", "")
    with torch.no_grad():
        logits = predict_logits(model, images, fp32, "flip")
        torch.testing.assert_close(logits, (model(images) + model(images.flip(3))) / 2)
        torch.testing.assert_close(predict_logits(model, images.flip(3), fp32, "flip"), logits)
    assert evaluate_here(run, packed_small, tta="flip").tta == "flip"


def test_ten_crop_averages_the_softmax_of_ten_views(run, packed, monkeypatch):
    model = load_run(run).model
    images = torch.randn(2, 3, 36, 36)
    views = torchvision.transforms.functional.ten_crop(images, 32)
    with torch.no_grad():
        expected = torch.stack([model(view).softmax(1) for view in views]).mean(0)
        found = predict_logits(model, images, Precision("fp32", "cpu", ""), "ten-crop")
    torch.testing.assert_close(found.softmax(1), expected, atol=1e-5, rtol=1e-4)
    assert evaluate_here(run, packed, tta="ten-crop").images == 23


def test_ten_crop_sees_the_whole_centre_square(packed):
    config = LoaderConfig(
        dataset=packed, split="val", image_size=37, eval_resize=37, num_workers=0, device="cpu", dtype="uint8"
    )
    with open_loader(config) as loader:
        images, _ = next(iter(loader))
    assert images.shape[-1] == 37
    with pytest.raises(UsageError, match="eval_resize must be a whole number from image_size=37 up"):
        LoaderConfig(dataset=packed, image_size=37, eval_resize=36)


def test_what_cannot_be_evaluated_is_refused(run, packed_small, tmp_path):
    for options, message in (
        (
            {"split": "test"},
            "no labels to compare with: use `alexnet-fast predict`, or evaluate on another, as in --split val",
        ),
        ({"split": "dev"}, r"no split 'dev' \(it has .*\): evaluate on another, as in --split val"),
        ({"tta": "twelve"}, "tta must be one of"),
    ):
        with pytest.raises(UsageError, match=message):
            evaluate_here(run, packed_small, **options)
    with pytest.raises(UsageError, match="there is no run"):
        evaluate_here(tmp_path / "nowhere", packed_small)
    with pytest.raises(UsageError, match="holds no checkpoint"):
        evaluate_here(tmp_path, packed_small)
    (tmp_path / "junk.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(DamagedDataError, match="is damaged or is not a checkpoint"):
        load_run(tmp_path / "junk.pt")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(DamagedDataError, match="neither a checkpoint"):
        load_run(tmp_path / "other.pt")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a disk that is always full")
def test_a_result_that_cannot_be_written_is_still_told(run, packed_small, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / ".curves.png.tmp").symlink_to("/dev/full")
    scores = evaluate_here(run, packed_small, json=tmp_path / "scores.json").scores()
    with pytest.raises(StorageError) as raised:
        evaluate_here(run, packed_small, report=report, json=tmp_path / "again.json")
    assert str(raised.value) == (
        f"not written: {report}: No space left on device: free some space, or choose another disk; "
        f"the result is {scores}"
    )
    assert (tmp_path / "again.json").read_text() == (tmp_path / "scores.json").read_text()


def test_a_checkpoint_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (print, ("code from a checkpoint ran",))

    torch.save({"format": 1, "model": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(DamagedDataError, match="UnpicklingError"):
        load_run(tmp_path / "bomb.pt")


def test_torchvisions_weights_are_a_run(packed_small, tmp_path):
    theirs = torchvision.models.alexnet(num_classes=4).eval()
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    loaded = load_run(tmp_path / "alexnet.pth")
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), theirs(images), rtol=0, atol=0)
    assert loaded.config["model"] == "alexnet-owt" and loaded.image_size == 224
    result = evaluate_here(tmp_path / "alexnet.pth", packed_small)
    assert "does not name its classes, so they could not be compared" in result.closing_lines()
    assert "its first output is taken for class 0, its last for class 3" in result.closing_lines()
    assert result.as_dict()["classes_checked"] is False
    with pytest.raises(UsageError, match="knows 4 classes"):
        evaluate_here(tmp_path / "alexnet.pth", _other_classes(packed_small, tmp_path))


def _other_classes(dataset, tmp_path):
    from alexnet_fast.dataset import ClassInfo, DatasetInfo, read_dataset_info, write_dataset_info

    info = read_dataset_info(dataset)
    other = tmp_path / "other"
    other.mkdir()
    classes = (*info.classes, ClassInfo(index=4, wnid="n4", name="four"))
    write_dataset_info(other, DatasetInfo(classes=classes, splits=info.splits, packing={}))
    return other


def test_precision_follows_the_cpus_instructions(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu avx512f avx512_bf16 sse\n")
    assert cpu_bf16_instructions(cpuinfo) == ["avx512_bf16"]
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512f\n")
    assert cpu_bf16_instructions(cpuinfo) == []
    assert cpu_bf16_instructions(tmp_path / "none") == []
    chosen = choose_precision("auto", torch.device("cpu"))
    assert chosen.name == ("bf16" if cpu_bf16_instructions() else "fp32")
    assert choose_precision("fp32", torch.device("cpu")).dtype == torch.float32
    with pytest.raises(UsageError, match="fp16"):
        choose_precision("fp16", torch.device("cpu"))


def outcome(labels, predictions, classes):
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    right = predictions == labels
    return EvalResult(
        run=Path("run"), dataset=Path("data"), split="val", tta="none", description="alexnet", images=len(labels),
        loss=1.0, top1=float(right.mean()), top5=1.0, seconds=1.0, labels=labels, predictions=predictions[:, None],
        classes=tuple(ClassInfo(index=i, wnid=f"n{i}", name=f"class {i}") for i in range(classes)),
        probabilities=np.ones((len(labels), 1), np.float32), records=np.arange(len(labels)),
    )  # fmt: skip


def test_a_large_class_is_told_from_skill():
    labels = [0] * 300 + [1] * 4 + [2] * 4
    result = outcome(labels, [0] * 308, 3)
    lines = result.closing_lines()
    assert "top-1 97.40%" in lines and "balanced accuracy (each class counts alike) 33.33%" in lines
    assert "always answering class 0, the largest class, gives 97.40%" in lines
    even = outcome([0, 1, 2] * 5, [0] * 15, 3).closing_lines()
    assert "balanced" not in even
    assert "2 of 6 classes have no image here" in outcome([0, 1, 2, 3], [0] * 4, 6).closing_lines()
    assert "1 class, so every answer is right" in outcome([0] * 3, [0] * 3, 1).closing_lines()


def test_confusions_of_many_classes_take_the_memory_of_the_pairs_that_occur():
    random = np.random.default_rng(0)
    labels, predictions = random.integers(0, 12_000, (2, 30_000))
    result = outcome(labels, predictions, 12_000)
    tracemalloc.start()
    pairs, lines, drawn = confused_pairs(result), class_lines(result), result.confusion()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6  # the whole matrix would take 1.2 GB
    assert drawn.shape == (1000, 1000) and drawn.sum() == 30_000
    assert drawn[3].sum() == ((labels >= 36) & (labels < 48)).sum()
    true, predicted, count, share = pairs[0]
    together = (labels == true) & (predictions == predicted)
    assert count == together.sum() and share == count / (labels == true).sum()
    assert len(lines) == 3
