"""The four networks: their sizes, their shapes, and the weights that they share with torchvision."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from alexnet_fast import UsageError, create_model
from alexnet_fast.config import MODELS
from alexnet_fast.models import ARCHITECTURES, count_parameters, feature_sizes
from alexnet_fast.models.alexnet import forward_flops
from alexnet_fast.models.response_norm import ResponseNorm


@pytest.fixture(autouse=True)
def on_meta():
    """Sizes and shapes need no storage: 60 M parameters four times over would cost most of this file's time."""
    with torch.device("meta"):
        yield


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("alexnet", 62_378_344),
        ("alexnet-paper", 60_965_224),
        ("alexnet-owt", 61_100_840),
        ("alexnet-bn", 62_387_912),
    ],
)
def test_parameters_at_1000_classes(name, parameters):
    assert count_parameters(create_model(name)) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_feature_maps_at_224_pixels(name):
    model = create_model(name, num_classes=10)
    sides = []
    for layer in model.features:
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d)):
            layer.register_forward_hook(lambda _m, _i, out: sides.append(out.shape[-1]))
    assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 10)
    assert sides == [55, 27, 27, 13, 13, 13, 13, 6]
    assert feature_sizes(ARCHITECTURES[name], 224) == [55, 27, 13, 6]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("image_size", [21, 32, 47, 48, 64, 96, 111, 112, 160, 256, 331])
def test_any_image_size_and_number_of_classes(name, image_size):
    model = create_model(name, num_classes=3, image_size=image_size)
    assert model(torch.zeros(2, 3, image_size, image_size)).shape == (2, 3)
    assert count_parameters(model) <= 63_000_000


def test_too_small_a_image_is_refused():
    with pytest.raises(UsageError, match="images of 20 pixels leave nothing"):
        create_model("alexnet", image_size=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "vgg"}, "alexnet, alexnet-bn, alexnet-paper, alexnet-owt, got 'vgg'"),
        ({"name": "alexnet", "num_classes": 0}, "num_classes"),
        ({"name": "alexnet", "dropout": 1.0}, "dropout"),
        ({"name": "alexnet", "width": 0}, "width"),
        ({"name": "alexnet", "stem_stride": 5}, "stem_stride"),
        ({"name": "alexnet", "hidden": 4}, "hidden must be a whole number from 8"),
        ({"name": "alexnet", "init": "he"}, "init must be one of scaled, published"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        create_model(**arguments)


def test_owt_and_torchvision_take_each_others_weights():
    with torch.device("cpu"):
        theirs, ours = torchvision.models.alexnet(num_classes=5).eval(), create_model("alexnet-owt", 5).eval()
        images = torch.randn(2, 3, 224, 224)
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=0)
        # And learn alike to the bit, though ours pools before ReLU.
        for model in (ours, theirs):
            torch.nn.functional.cross_entropy(model(images), torch.tensor([1, 3])).backward()
        for mine, theirs_ in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs_.grad, rtol=0, atol=0)
        other = torchvision.models.alexnet(num_classes=5).eval()
        other.load_state_dict(ours.state_dict())
        torch.testing.assert_close(other(images), theirs(images), rtol=0, atol=0)


def test_owt_keeps_its_parameters_at_every_image_size():
    shapes = [{k: v.shape for k, v in create_model("alexnet-owt", 7, s).state_dict().items()} for s in (32, 224, 256)]
    assert shapes[0] == shapes[1] == shapes[2]


def layers_of(model):
    return [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]


def test_the_paper_network_begins_as_the_paper_says():
    with torch.device("cpu"):
        layers = layers_of(create_model("alexnet-paper", 5, 64, init="published"))
    assert [m.bias[0].item() for m in layers] == [0, 1, 0, 1, 1, 1, 1, 0]
    for m in layers:
        # The paper's inputs are 0 to 255 less the mean, ours divided by a standard deviation of 0.226 x 255 as well.
        assert m.weight.std().item() == pytest.approx(0.01 * (57.6 if m is layers[0] else 1), rel=0.05)
        assert (m.bias == m.bias[0]).all()
    assert [m.groups for m in layers[:5]] == [1, 2, 1, 2, 2]


def natural_images(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) of mean 0 and variance 1; their spectrum falls with the frequency as that of photos."""
    rows, columns = torch.fft.fftfreq(size), torch.fft.rfftfreq(size)
    frequency = torch.hypot(rows[:, None], columns[None]).clamp_min(1 / size)
    images = torch.fft.irfft2(torch.fft.rfft2(torch.randn(count, 3, size, size)) / frequency, s=(size, size))
    return (images - images.mean()) / images.std()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("image_size", "width"), [(32, 0.5), (64, 0.25), (64, 0.5), (224, 0.25)])
def test_every_layer_begins_at_unit_scale_and_the_loss_near_that_of_guessing(name, image_size, width):
    with torch.device("cpu"):
        torch.manual_seed(0)
        model = create_model(name, 20, image_size, width=width).eval()
        images, scales = natural_images(16, image_size), []
        for layer in layers_of(model):
            layer.register_forward_hook(lambda _m, _i, out: scales.append(out.std().item()))
        loss = nn.functional.cross_entropy(model(images), torch.arange(16))
    assert len(scales) == 8 and all(0.5 < scale < 1.8 for scale in scales[:-1]) and 0.03 < scales[-1] < 0.25
    assert loss.item() == pytest.approx(math.log(20), abs=0.1)


@pytest.mark.parametrize(("name", "left"), [(name, 1 if name == "alexnet-bn" else 0.3) for name in MODELS])
def test_fully_connected_units_without_batch_normalisation_begin_with_less_mean_weight(name, left):
    with torch.device("cpu"):
        torch.manual_seed(0)
        layers = [m.weight for m in layers_of(create_model(name, 500, 64, width=0.25)) if isinstance(m, nn.Linear)]
    for weight in layers:
        of_random = weight.std() / math.sqrt(weight.shape[1])  # spread of the mean of so many independent weights
        assert (weight.mean(dim=1).std() / of_random).item() == pytest.approx(left, rel=0.15)


@pytest.mark.parametrize(("name", "variance"), [("alexnet", 2), ("alexnet-bn", 2), ("alexnet-owt", 1 / 3)])
def test_the_published_weights_are_he_et_als_and_pytorchs(name, variance):
    with torch.device("cpu"):
        weight = layers_of(create_model(name, 5, 64, width=0.25, init="published"))[1].weight
    assert weight.var().item() * weight[0].numel() == pytest.approx(variance, rel=0.1)


def test_local_response_norm_is_the_papers():
    with torch.device("cpu"):
        norms = [m for m in create_model("alexnet-paper", 5, 64).features if isinstance(m, nn.LocalResponseNorm)]
        a = torch.rand(1, 9, 2, 2, dtype=torch.float64) * 50
        expected = torch.empty_like(a)
        for i in range(9):  # section 3.3: b_i = a_i / (k + alpha * sum of a_j^2 over the n adjacent kernel maps)^beta
            window = a[:, max(0, i - 2) : min(8, i + 2) + 1]
            expected[:, i] = a[:, i] / (2 + 1e-4 * (window**2).sum(1)) ** 0.75
        assert len(norms) == 2
        torch.testing.assert_close(norms[0](a), expected)


@pytest.mark.parametrize("beta", [0.75, 0.5])
def test_local_response_norm_has_torchs_values_and_gradients(beta):
    with torch.device("cpu"):
        ours, theirs = ResponseNorm(5, 5e-3, beta, 2.0), nn.LocalResponseNorm(5, 5e-3, beta, 2.0)
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 0.02)):
            wide = (torch.randn(2, 12, 3, 3, dtype=torch.float64) * 20).to(dtype).double().requires_grad_()
            a = wide.detach().to(dtype).requires_grad_()
            weights = torch.rand(2, 12, 3, 3, dtype=torch.float64)
            expected, found = theirs(wide), ours(a)
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
            (expected * weights).sum().backward()
            (found * weights).sum().backward()
            torch.testing.assert_close(a.grad.double(), wide.grad, rtol=tolerance, atol=tolerance)


def test_width_scales_the_hidden_layers():
    whole, part = create_model("alexnet", 10), create_model("alexnet", 10, width=0.125)
    assert whole.classifier[1].out_features == 4096 and part.classifier[1].out_features == 512
    assert count_parameters(part) < count_parameters(whole) / 40
    told = create_model("alexnet", 10, width=0.125, hidden=40)
    assert [told.classifier[i].out_features for i in (1, 4, 6)] == [40, 40, 10]


def test_forward_flops_by_hand():
    macs = 55**2 * 96 * 363 + 27**2 * 256 * 2400 + 13**2 * (384 * 2304 + 384 * 3456 + 256 * 3456)
    macs += 9216 * 4096 + 4096 * 4096 + 4096 * 1000
    assert forward_flops(create_model("alexnet"), 224) == 2 * macs


def test_a_finer_first_stride_keeps_more_of_small_images():
    fine = create_model("alexnet-bn", 200, 64, stem_stride=1)
    assert feature_sizes(fine.architecture, 64) == [64, 31, 15, 7]
    assert fine(torch.zeros(2, 3, 64, 64)).shape == (2, 200)
    assert count_parameters(fine) <= 63_000_000


def test_tf32_is_allowed_without_a_warning_and_both_ways_to_ask_work(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_fast.models import choose_precision

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    try:
        assert choose_precision("auto", torch.device("cuda", 0)).name == "bf16"
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
        assert getattr(torch.backends.cuda.matmul, "fp32_precision", "tf32") == "tf32"
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert choose_precision("auto", torch.device("cuda", 0)).name == "fp16"
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.backends.cudnn.benchmark = before[2]
