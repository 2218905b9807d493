"""Weights as people have them: in whatever a trainer saved, under whatever names, or named for what they are not."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
import torch
from torch import nn

from alexnet_fast import UsageError, create_model
from alexnet_fast.config import MODELS
from alexnet_fast.errors import DamagedDataError
from alexnet_fast.training import load_run

CLASSES, WIDTH = 7, 0.0625


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("alexnet-owt", CLASSES, width=WIDTH).eval()


def renamed(weights, rename):
    return {rename(name): tensor for name, tensor in weights.items()}


class Options:
    """Stands for a class of a trainer that is not installed where the file is read."""


FORMS = {
    "bare": lambda w: w,
    "dataparallel": lambda w: renamed(w, "module.{}".format),
    "compiled": lambda w: renamed(w, "_orig_mod.{}".format),
    "compiled in dataparallel": lambda w: renamed(w, "module._orig_mod.{}".format),
    "dataparallel compiled": lambda w: renamed(w, "_orig_mod.module.{}".format),
    "half": lambda w: {k: v.half() for k, v in w.items()},
    "features in dataparallel": lambda w: {
        "epoch": 90, "arch": "alexnet", "best_acc1": torch.tensor(56.5), "optimizer": {"state": {}},
        "state_dict": renamed(w, lambda k: k.replace("features.", "features.module.")),
    },
    "model": lambda w: {"model": w, "epoch": 1},
    "options beside it": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1), "own": Options()},
    "lightning": lambda w: {
        "state_dict": {**renamed(w, "net.{}".format), "criterion.weight": torch.ones(3)}, "global_step": 9,
        "pytorch-lightning_version": "2.4",
    },
    "numpy scalar": lambda w: {"state_dict": w, "best": np.float64(0.5)},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_found_in_whatever_form_they_were_saved(form, network, tmp_path):
    torch.save(FORMS[form](network.state_dict()), tmp_path / "w.pth")
    loaded = load_run(tmp_path / "w.pth")
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        tolerance = 1e-2 if form == "half" else 0
        torch.testing.assert_close(loaded.model(images), network(images), rtol=tolerance, atol=tolerance)
    assert loaded.config["model"] == "alexnet-owt" and loaded.image_size == 224
    assert ("without criterion.weight" in loaded.description) == (form == "lightning")


def test_a_running_mean_is_used_before_the_weights_and_said(network, tmp_path):
    mean = {k: v * 0.5 for k, v in network.state_dict().items()}
    torch.save({"state_dict": network.state_dict(), "state_dict_ema": mean}, tmp_path / "timm.pth")
    loaded = load_run(tmp_path / "timm.pth")
    torch.testing.assert_close(loaded.model.features[0].weight, network.features[0].weight * 0.5)
    assert "its state_dict_ema" in loaded.description


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.1, 0.26])
def test_every_network_of_every_width_is_told_by_its_shapes(name, width, tmp_path):
    model = create_model(name, CLASSES, width=width)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    loaded = load_run(tmp_path / "w.pth")
    # `alexnet` and its kin differ in more than shapes; where they do not, the network computes the same.
    assert [p.shape for p in loaded.model.parameters()] == [p.shape for p in model.parameters()]
    assert loaded.config["model"] == name
    made_again = create_model(name, CLASSES, 224, **loaded.config["recipe"])
    made_again.load_state_dict(model.state_dict())


def test_safetensors_of_others_are_read(network, tmp_path):
    from safetensors.torch import save_file

    save_file(network.state_dict(), tmp_path / "w.safetensors")
    assert load_run(tmp_path / "w.safetensors").config["model"] == "alexnet-owt"


def refused(path, *words, error=UsageError):
    with pytest.raises(error) as caught:
        load_run(path)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_told_by_name(network, tmp_path):
    path = tmp_path / "w.pth"
    weights = network.state_dict()
    torch.save({k: v for k, v in weights.items() if k != "classifier.6.bias"}, path)
    refused(path, "alexnet-owt comes nearest", "lacks classifier.6.bias")
    torch.save({**weights, "features.3.bias": torch.zeros(9), "more.weight": torch.zeros(2, 2)}, path)
    refused(path, "features.3.bias (is 9, would be 16)", "has besides more.weight")
    torch.save({f"conv{i}.weight": torch.zeros(2, 2) for i in range(9)}, path)
    refused(path, "the weights of a whole AlexNet (it holds conv0.weight, conv1.weight, conv2.weight and 6 more)")
    torch.save(create_model("alexnet", CLASSES, 64, width=WIDTH).state_dict(), path)
    refused(path, "an alexnet for smaller images", ".safetensors")
    torch.save({**weights, "features.0.weight": weights["features.0.weight"] * float("nan")}, path)
    refused(path, "features.0.weight holds values that are no numbers", error=DamagedDataError)


def test_what_is_no_weights_is_named_for_what_it_is(network, tmp_path):
    path = tmp_path / "file.pt"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    refused(path, "a whole pickled model (torch.nn.modules.container.Sequential)", "state_dict()")
    torch.save({"model": network, "epoch": 1}, path)
    refused(path, "a whole pickled model (alexnet_fast.models.alexnet.AlexNet)")
    torch.save(torch.zeros(3), path)
    refused(path, "holds a Tensor")
    program = torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),))
    torch.export.save(program, tmp_path / "program.pt2")
    refused(tmp_path / "program.pt2", "a torch.export program")
    np.save(tmp_path / "w.npy", np.zeros(3))
    refused(tmp_path / "w.npy", "a numpy file")
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    refused(tmp_path / "w.npz", "a numpy .npz file")
    for name, content, word in (
        ("model.onnx", b"\x08\x08\x12\x07pytorch", "an ONNX file"),
        ("w.h5", b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
        ("lfs.pth", b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        ("page.pth", b"<!DOCTYPE html><html>404</html>", "a web page"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, word)
    (tmp_path / "empty.pth").write_bytes(b"")
    refused(tmp_path / "empty.pth", "is empty", error=DamagedDataError)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_named(tmp_path):
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    refused(tmp_path / "script.pt", "a TorchScript program")


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_of_a_file_is_run_not_even_beside_the_weights(network, tmp_path):
    import os
    import webbrowser

    path, witness = tmp_path / "w.pth", tmp_path / "ran"
    torch.save({"state_dict": network.state_dict(), "x": Call(os.mkdir, str(witness))}, path)
    refused(path, "asks to run", "mkdir", error=DamagedDataError)
    torch.save({"state_dict": network.state_dict(), "x": Call(webbrowser.open, "file:///")}, path)
    assert load_run(path).config["model"] == "alexnet-owt"  # what stood there is passed over, and was not called
    assert not witness.exists()


def test_metadata_that_do_not_fit_their_weights_are_damage(network, tmp_path):
    from safetensors.torch import save_file

    classes = [{"index": i, "wnid": f"n{i}", "name": f"class {i}"} for i in range(CLASSES)]
    good = {"model": "alexnet-owt", "image_size": 224, "width": WIDTH, "stem_stride": None, "classes": classes}
    path = tmp_path / "w.safetensors"
    for metadata, words in (
        (good, None),
        ({**good, "width": 0.5}, "differs in the shape"),
        ({**good, "image_size": "large"}, "its metadata"),
        ({**good, "classes": 3}, "its metadata"),
        ({k: v for k, v in good.items() if k != "model"}, "its metadata"),
    ):
        save_file(network.state_dict(), path, metadata={"alexnet_fast": json.dumps(metadata)})
        if words is None:
            assert [c.name for c in load_run(path).classes] == [c["name"] for c in classes]
        else:
            refused(path, words, "export it again", error=DamagedDataError)
