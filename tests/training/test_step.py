"""The training step without a run around it."""

from __future__ import annotations

import pytest
import torch

from alexnet_fast import TrainConfig, create_model
from alexnet_fast.models import choose_precision
from alexnet_fast.training import Ranks, Step
from alexnet_fast.training.recipes import choose_recipe

CPU = torch.device("cpu")
OVERRIDES = {"width": 0.0625, "ema": 0.5, "clip": 1.0}


def make(model: str = "alexnet-bn", precision: str = "fp32") -> Step:
    config = TrainConfig(dataset="", model=model, batch_size=8, overrides=OVERRIDES)
    recipe = choose_recipe(config, 800)
    torch.manual_seed(0)
    network = create_model(model, 4, 32, **recipe.network)
    return Step(network, recipe, choose_precision(precision, CPU), Ranks(0, 1, CPU), total_steps=50)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(number)
    return torch.randn(8, 3, 32, 32), torch.arange(8) % 4


def assert_equal(a: object, b: object) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


def snapshot(state: object) -> object:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: snapshot(value) for key, value in state.items()}
    return [snapshot(value) for value in state] if isinstance(state, list) else state


def test_it_learns_a_batch_by_heart_and_says_loss_hits_and_rate():
    step = make()
    images, labels = batch(0)
    outcomes = [step(images, labels) for _ in range(40)]
    assert step.done == 40 and outcomes[-1].loss < outcomes[0].loss
    assert outcomes[-1].hits > 4 and 0 < outcomes[-1].rate == step.rate
    loss, hits = step.sums.tolist()
    assert loss == pytest.approx(sum(8 * float(one.loss) for one in outcomes)) and hits == sum(
        int(one.hits) for one in outcomes
    )


def test_it_goes_on_from_its_state_bit_for_bit():
    one, other = make(), make()
    for number in range(7):
        one(*batch(number))
    other.load(snapshot(one.state()))
    for number in range(7, 12):
        one(*batch(number))
        other(*batch(number))
    assert_equal(one.state(), other.state())
    assert one.mean is not None and one.done == 12


@pytest.mark.parametrize("model", ["alexnet", "alexnet-bn"])
def test_in_the_midst_of_a_step_the_state_is_that_of_before(model):
    step = make(model)
    step(*batch(0))
    before, found = snapshot(step.state()), []
    last = step.model.classifier[-1]
    hook = last.register_forward_hook(lambda *_: found.append(snapshot(step.state())))
    step(*batch(1))
    hook.remove()
    assert_equal(found, [before])
    after = step.state()["model"]
    assert not all(torch.equal(after[name], value) for name, value in before["model"].items())


@pytest.mark.parametrize("recipe", ["fast", "notebook"])
def test_alone_it_is_the_step_of_train(recipe):
    step = Step.alone("alexnet", num_classes=3, image_size=32, batch_size=4, device=CPU, recipe=recipe)
    images, labels = torch.randn(4, 3, 32, 32).to(step.precision.dtype), torch.arange(4) % 3
    first, second = step(images, labels), step(images, labels)
    assert step.done == 2 and first.loss.isfinite() and second.rate >= first.rate > 0
