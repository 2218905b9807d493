"""Predicting people's own images, and handing the network to other programs."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import alexnet_fast as af
from alexnet_fast.config import MODELS
from alexnet_fast.errors import DamagedDataError, UsageError
from alexnet_fast.evaluation import evaluate, export, predict
from alexnet_fast.evaluation.predict import load_image
from alexnet_fast.inspection import read_image
from alexnet_fast.training import load_run


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """A run folder of a small network after a few steps."""
    run = tmp_path_factory.mktemp("runs") / "run"
    af.train(
        af.TrainConfig(
            dataset=packed, run_dir=run, model="alexnet-bn", image_size=32, epochs=2, batch_size=8, precision="fp32",
            backend="torchvision", num_workers=0, overrides={"width": 0.1}, device="cpu", compile="off",
        )
    )  # fmt: skip
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my images 图片")
    colours = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    image = Image.fromarray(colours)
    image.save(folder / "a.jpg")
    image.save(folder / "b.png")
    image.convert("L").save(folder / "c.webp")
    image.convert("RGBA").save(folder / "d.png")
    image.convert("P").save(folder / "e.gif")
    image.convert("CMYK").save(folder / "f.tif")
    Image.fromarray(colours[..., 0].astype(np.uint16) * 257).save(folder / "g.png")
    (folder / "sub").mkdir()
    image.save(folder / "sub" / "h.bmp")
    (folder / "notes.txt").write_text("no image")
    return folder


def test_every_format_and_folder_is_predicted(trained, images):
    result = predict(trained, [images, images / "a.jpg"], top=2, device="cpu")
    assert [p.path.name for p in result.predictions] == [
        "a.jpg", "b.png", "c.webp", "d.png", "e.gif", "f.tif", "g.png", "h.bmp", "a.jpg",
    ]  # fmt: skip
    for prediction in result.predictions:
        first, second = prediction.guesses
        assert 1 >= first.probability >= second.probability >= 0
        assert first.wnid.startswith("n0000000")
    assert "my images 图片" in result.closing_lines()


def test_predictions_are_those_of_evaluation(trained, packed, tmp_path):
    reader = af.ShardReader(packed, "val")
    paths = []
    for record in range(len(reader)):
        paths.append(tmp_path / f"{record:03d}.png")
        Image.fromarray(read_image(reader, record)).save(paths[-1])
    reader.close()
    found = predict(trained, paths, top=1, device="cpu")
    expected = evaluate(trained, packed, device="cpu", precision="fp32", backend="torchvision", num_workers=0)
    guesses = np.array([p.guesses[0].probability for p in found.predictions])
    assert np.allclose(guesses, expected.probabilities[:, 0], atol=0.02)
    same = [p.guesses[0].index for p in found.predictions] == expected.predictions[:, 0]
    assert same.mean() > 0.9


def test_the_result_is_written_as_json(trained, images, tmp_path):
    predict(trained, [images / "a.jpg"], top=3, device="cpu").write_json(tmp_path / "p.json")
    content = json.loads((tmp_path / "p.json").read_text())
    (image,) = content["images"]
    assert len(image["classes"]) == 3
    assert set(image["classes"][0]) == {"index", "wnid", "name", "probability"}


def test_a_broken_image_among_others_is_named_and_the_others_are_predicted(trained, images, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes((images / "a.jpg").read_bytes()[:300])
    result = predict(trained, [broken, images / "a.jpg"], device="cpu")
    assert [p.path.name for p in result.predictions] == ["a.jpg"]
    assert [path.name for path, _ in result.unreadable] == ["broken.jpg"]
    assert "not read: it is cut short" in result.closing_lines()
    with pytest.raises(DamagedDataError, match=r"broken\.jpg"):
        predict(trained, [broken], device="cpu")


def test_orientation_is_followed_and_transparency_is_white(tmp_path):
    half = np.zeros((40, 40, 3), np.uint8)
    half[:20] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(half).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    seen = load_image(tmp_path / "turned.jpg", 32)
    assert seen[:, 2].float().mean() < 30 < 220 < seen[:, -3].float().mean()
    Image.new("RGBA", (30, 30), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (load_image(tmp_path / "clear.png", 32) == 255).all()


def test_torchvisions_weights_are_a_run(tmp_path, images):
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "alexnet.pth")
    result = predict(tmp_path / "alexnet.pth", [images / "a.jpg"], top=1, device="cpu")
    pixels = load_image(images / "a.jpg", 224)[None].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = network((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)).softmax(1)[0]
    (guess,) = result.predictions[0].guesses
    assert guess.index == int(expected.argmax())
    assert guess.probability == pytest.approx(float(expected.max()), rel=1e-3)
    assert guess.name == torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"][guess.index]


@pytest.mark.parametrize("ending", ["onnx", "safetensors", "pt2"])
def test_an_exported_network_computes_the_same_and_knows_its_classes(trained, images, tmp_path, ending):
    target = tmp_path / f"model.{ending}"
    assert "checked" in export(trained, target)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    pixels = load_image(images / "a.jpg", 32)[None]
    (expected,) = predict(trained, [images / "a.jpg"], top=4, device="cpu").predictions
    shares, content = run_exported(target, pixels)
    for guess in expected.guesses:
        assert float(shares[0, guess.index]) == pytest.approx(guess.probability, abs=1e-4)
    assert [c["name"] for c in content["classes"]] == [f"class {i}" for i in range(4)]
    assert content["preprocessing"]["centre_crop"] == 32
    assert content["preprocessing"]["resize_shorter_side"] == 37


def run_exported(path, pixels):
    """Probabilities of `pixels` by the exported file, without this package's help, and its metadata."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [axis.shape[0] for axis in (*session.get_inputs(), *session.get_outputs())] == ["batch", "batch"]
        text = session.get_modelmeta().custom_metadata_map["alexnet_fast"]
        return session.run(None, {"pixels": pixels.numpy()})[0], json.loads(text)
    if path.suffix == ".pt2":
        held = {"alexnet_fast.json": ""}
        program = torch.export.load(path, extra_files=held)
        return program.module()(pixels).detach(), json.loads(held["alexnet_fast.json"])
    model, content = rebuilt(path)
    mean, std = (torch.tensor(content["preprocessing"][name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return model.eval()((pixels.float() / 255 - mean) / std).softmax(1), content


def rebuilt(path):
    """The network of a .safetensors file by `create_model` and the file's metadata alone."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["alexnet_fast"])
    names = set(inspect.signature(af.create_model).parameters) - {"name", "num_classes"}
    assert names <= set(content), "the metadata hold every argument of create_model"
    arguments = {name: content[name] for name in names}
    model = af.create_model(content["model"], len(content["classes"]), **arguments)
    model.load_state_dict(load_file(path))
    return model, content


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("image_size", "stem_stride", "dropout", "hidden"),
    [(224, 2, 0.1, None), (224, None, None, 24), (64, 1, None, None), (64, None, 0.3, 40)],
)
def test_each_network_is_built_again_from_its_metadata(name, image_size, stem_stride, dropout, hidden, tmp_path):
    torch.manual_seed(0)
    network = {"width": 0.07, "hidden": hidden, "dropout": dropout, "stem_stride": stem_stride}
    model = af.create_model(name, 3, image_size, **network).eval()
    run = {
        "format": 1, "model": model.state_dict(), "ema": None, "rows": [], "epoch": 1, "step": 1,
        "config": {"model": name, "image_size": image_size, "recipe": network},
        "classes": [{"index": i, "wnid": f"n{i}", "name": f"class {i}"} for i in range(3)],
    }  # fmt: skip
    torch.save(run, tmp_path / "run.pt")
    export(tmp_path / "run.pt", tmp_path / "w.safetensors")
    images = torch.randn(2, 3, image_size, image_size)
    back, _ = rebuilt(tmp_path / "w.safetensors")
    read = load_run(tmp_path / "w.safetensors")
    with torch.no_grad():
        for other in (back.eval(), read.model):
            torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)
    assert back.architecture == read.model.architecture == model.architecture
    assert [c.name for c in read.classes] == ["class 0", "class 1", "class 2"]


def test_other_endings_are_refused(trained, tmp_path):
    with pytest.raises(UsageError, match=r"\.onnx"):
        export(trained, tmp_path / "model.tflite")


def test_a_report_is_one_page_with_everything_in_it(trained, packed, tmp_path):
    result = evaluate(trained, packed, device="cpu", backend="torchvision", num_workers=0, report=tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    drawings = ["confusion.png", "curves.png", "filters.png", "guesses.png", "neighbours.png"]
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == sorted([*drawings, "index.html"])
    assert f"{result.top1:.2%}" in page
    assert page.count("<figure>") == result.images  # few enough to show each of them
    assert page.count("data:image/png") == len(drawings)
    for name in drawings:
        with Image.open(tmp_path / "report" / name) as image:
            assert np.asarray(image.convert("L")).std() > 5
    # The training images nearest to each of 5 images, of the 4 classes' 53.
    assert re.search(r"Of the 30 training images nearest to these 5, \d+ are of their class\.", page)
    assert "http" not in page.replace("http-equiv", "")
    for label in range(4):
        assert f"class {label}" in page
    lines = result.closing_lines().splitlines()
    assert any(line.startswith("hardest classes: class") for line in lines)
    assert lines[-1] == f"report: {tmp_path / 'report' / 'index.html'}"
    with pytest.raises(UsageError, match="is a file"):
        evaluate(trained, packed, device="cpu", backend="torchvision", num_workers=0, report=packed / "dataset.json")


def test_features_are_what_the_last_layer_reads(trained, images, tmp_path):
    result = predict(trained, [images / "a.jpg", images / "b.png"], top=4, device="cpu", features=True)
    result.write_features(tmp_path / "f.npy")
    vectors = np.load(tmp_path / "f.npy")
    model = load_run(trained).model
    assert vectors.shape == (2, model.architecture.hidden) and vectors.dtype == np.float32
    with torch.no_grad():
        shares = model.classifier[-1](torch.from_numpy(vectors)).softmax(1)
    for row, prediction in zip(shares, result.predictions, strict=True):
        for guess in prediction.guesses:
            assert float(row[guess.index]) == pytest.approx(guess.probability, abs=1e-5)
    with pytest.raises(UsageError, match="features=True"):
        predict(trained, [images / "a.jpg"], device="cpu").write_features(tmp_path / "g.npy")


def test_where_results_go_is_asked_before_the_work(trained, images, packed, tmp_path):
    missing = tmp_path / "no" / "dir"
    for command, words in (
        (["predict", trained, images / "a.jpg", "--json", missing / "x.json"], "--json"),
        (["predict", trained, images / "a.jpg", "--features", missing / "x.npy"], "--features"),
        (["predict", trained, images / "a.jpg", "--features", tmp_path / "x.txt"], "end in .npy"),
        (["evaluate", trained, packed, "--json", missing / "x.json"], "--json"),
        (["evaluate", trained, packed, "--json", tmp_path], "is a folder"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "alexnet_fast", *map(str, command)], capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == ""
        assert words in done.stderr and len(done.stderr.splitlines()) == 1
