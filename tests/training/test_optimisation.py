"""What moves the weights: groups, the running mean, the bf16 copy, the colour noise."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from alexnet_fast import TrainConfig, create_model
from alexnet_fast.images import IMAGENET_STD
from alexnet_fast.models import Precision
from alexnet_fast.training.optimisation import WeightMean, WorkingCopy, add_color_noise, make_optimizer, orthogonalise
from alexnet_fast.training.recipes import choose_recipe

FAST = choose_recipe(TrainConfig(dataset="data"), 5000)


def small(name: str = "alexnet-bn"):
    torch.manual_seed(0)
    return create_model(name, 3, 32, width=0.0625)


def test_norms_and_biases_are_spared_the_decay_where_the_recipe_says_so():
    model = small()
    groups = make_optimizer(model, FAST, "cpu").param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert all(p.ndim > 1 for p in groups[0]["params"]) and all(p.ndim == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    groups = make_optimizer(model, replace(FAST, decay_norms_and_biases=True), "cpu").param_groups
    assert [group["weight_decay"] for group in groups] == [5e-4, 5e-4]
    adam = make_optimizer(model, choose_recipe(TrainConfig(dataset="data", recipe="notebook"), 5000), "cpu")
    assert isinstance(adam, torch.optim.Adam) and adam.param_groups[0]["betas"] == (0.9, 0.999)


def test_an_orthogonal_step_has_singular_values_near_one():
    torch.manual_seed(0)
    for rows, columns in ((24, 60), (24, 24), (60, 24)):
        made = torch.randn(rows, columns) @ torch.diag(torch.logspace(0, -1, columns))
        found = torch.linalg.svdvals(orthogonalise(made) / max(1.0, rows / columns) ** 0.5)
        assert found.max() < 1.3
        assert found.median() > 0.6
    assert torch.equal(orthogonalise(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_muon_moves_the_layers_between_by_its_rate_and_the_others_by_sgd():
    model = small()
    recipe = choose_recipe(TrainConfig(dataset="data", recipe="record"), 5000)
    optimizer = make_optimizer(model, replace(recipe, lr=0.01, momentum=0.0, weight_decay=0.0), "cpu")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {}
    for name, p in model.named_parameters():
        p.grad = gradients[name] = torch.randn_like(p)
    optimizer.step()
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    for name, p in model.named_parameters():
        if name in names[1:-1]:
            largest = float(torch.linalg.matrix_norm((p - before[name]).detach().flatten(1), 2))
            tall = max(1.0, len(p) / p[0].numel()) ** 0.5
            assert 0.007 * tall < largest < 0.013 * tall
        else:
            torch.testing.assert_close(p.detach(), before[name] - 0.05 * gradients[name])


def test_muon_goes_on_from_its_state_and_shrinks_its_weights_by_the_decay():
    recipe = choose_recipe(TrainConfig(dataset="data", recipe="record"), 5000)
    models = [small(), small()]
    optimizers = [make_optimizer(model, recipe, "cpu") for model in models]

    def take(optimizer, model, seed):
        torch.manual_seed(seed)
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()

    take(optimizers[0], models[0], 1)
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for optimizer, model in zip(optimizers, models, strict=True):
        take(optimizer, model, 2)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)
    middle, last = models[0].features[4].weight, models[0].classifier[-1].weight
    for p in models[0].parameters():
        p.grad = torch.zeros_like(p)
    optimizers[0].state.clear()
    before = middle.detach().clone(), last.detach().clone()
    optimizers[0].step()
    torch.testing.assert_close(middle.detach(), before[0] * (1 - recipe.lr * recipe.weight_decay))
    assert torch.equal(last, before[1])


def test_the_mean_follows_the_weights_and_the_batch_statistics():
    model = small()
    mean = WeightMean(model, 0.9)
    before = {name: value.clone() for name, value in mean.state.items()}
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(1)
    for step in range(4):
        mean.update(step)
    assert all(torch.equal(mean.state[name], value) for name, value in before.items())
    mean.update(4)
    share = 1 - min(0.9**5, 5 / 55)
    for name, value in before.items():
        moved = value + share if value.is_floating_point() else value + 1
        torch.testing.assert_close(mean.state[name], moved)
    other = WeightMean(model, 0.9)
    other.load(mean.state)
    assert all(torch.equal(other.state[name], value) for name, value in mean.state.items())


@pytest.mark.parametrize("name", ["alexnet", "alexnet-bn", "alexnet-paper"])
def test_the_bf16_copy_learns_for_the_float32_weights(name):
    model = small(name).train()
    copy = WorkingCopy(model, Precision("bf16", "cpu", ""))
    reference = small(name).train()
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    for network in (copy.network, reference):
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
    with torch.autocast("cpu", torch.bfloat16):
        loss = torch.nn.functional.cross_entropy(copy.network(images.bfloat16()).float(), labels)
    loss.backward()
    copy.hand_over_gradients()
    torch.nn.functional.cross_entropy(reference(images), labels).backward()
    for (key, mine), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert mine.dtype == mine.grad.dtype == torch.float32
        # Eight mantissa bits through eight layers and the statistics of eight images: the direction is what counts.
        cosine = torch.nn.functional.cosine_similarity(mine.grad.flatten(), theirs.grad.flatten(), dim=0)
        assert cosine > 0.8 or theirs.grad.norm() < 1e-4, key
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    copy.take_weights()
    for mine, theirs in zip(copy.network.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine.float(), theirs.bfloat16().float() if mine.dtype != theirs.dtype else theirs)
    assert all(
        a is b
        for a, b in zip(copy.network.modules(), model.modules(), strict=True)
        if isinstance(b, torch.nn.BatchNorm2d)
    )


def test_colour_noise_has_the_papers_spread_and_is_the_same_over_ranks():
    images = torch.zeros(4000, 3, 2, 2)
    noisy = add_color_noise(images, 0.1, seed=5)
    assert (images == 0).all()
    assert torch.equal(noisy, noisy[:, :, :1, :1].expand_as(noisy))  # one shift an image
    shift = (noisy[:, :, 0, 0] * torch.tensor(IMAGENET_STD)).numpy()
    deviations = np.sqrt(np.linalg.eigvalsh(np.cov(shift.T)))[::-1]
    np.testing.assert_allclose(deviations, [0.02175, 0.00188, 0.00045], rtol=0.05)
    parts = [add_color_noise(images[:2000], 0.1, seed=5, rank=rank, world_size=2) for rank in range(2)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), noisy)
    assert not torch.equal(add_color_noise(images, 0.1, seed=6), noisy)
