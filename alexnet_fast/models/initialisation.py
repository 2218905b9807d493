"""The weights that a network begins with: scaled to give every layer outputs of unit scale, or as published."""

from __future__ import annotations

import math

from torch import nn

from ..images import IMAGENET_STD
from .response_norm import ResponseNorm

_LOGITS = 0.1  # standard deviation of the last layer's outputs at the start, so that the loss is near ln(classes)
# The paper's images had values of 0 to 255, less their mean; ours are divided by ImageNet's standard deviation as well.
_PAPER_INPUT_SCALE = 255 * sum(IMAGENET_STD) / 3


def draw_weights(features: nn.Sequential, classifier: nn.Sequential, how: str) -> None:
    """Fill the convolutions and fully connected layers from torch's generator.

    Args:
        how: 'scaled', or what the networks were published with: 'paper' (Krizhevsky et al. 2012, section 5), 'he'
            (He et al. 2015), 'default' (PyTorch's, which the layers already have).
    """
    if how == "scaled":
        _draw_scaled((*features, *classifier))
    elif how != "default":
        _draw_published(features, classifier, paper=how == "paper")


def _draw_scaled(modules: tuple[nn.Module, ...]) -> None:
    """Normal weights whose variance undoes what lies between a layer's inputs and the outputs before them.

    He et al. 2015 count the ReLUs and leave out the max-pools, which raise the mean square again: with their weights an
    AlexNet's logits begin at a scale of 3, and the first steps end with no unit alive. Counting both, the layers of the
    four networks begin with outputs of 0.68 to 1.14 (standard deviation, Tiny ImageNet at 64 pixels).
    """
    power = 1.0  # mean square of what goes into the next layer
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            scale = _LOGITS if module is modules[-1] else 1.0
            nn.init.normal_(module.weight, std=scale / math.sqrt(power * module.weight[0].numel()))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            power = 1.0
        elif isinstance(module, nn.ReLU):
            power *= 0.5
        elif isinstance(module, nn.MaxPool2d):
            power *= 2.0
        elif isinstance(module, ResponseNorm):
            power *= module.k ** (-2 * module.beta)


def _draw_published(features: nn.Sequential, classifier: nn.Sequential, *, paper: bool) -> None:
    convs: list[nn.Conv2d | nn.Linear] = [m for m in features if isinstance(m, nn.Conv2d)]
    linears: list[nn.Conv2d | nn.Linear] = [m for m in classifier if isinstance(m, nn.Linear)]
    # Section 5 of the paper: biases of 1 in the second, fourth and fifth convolution and in the hidden layers.
    ones = {id(m) for m in (convs[1], convs[3], convs[4], *linears[:-1])} if paper else set()
    for m in (*convs, *linears):
        if paper or m is linears[-1]:
            nn.init.normal_(m.weight, std=0.01 * (_PAPER_INPUT_SCALE if paper and m is convs[0] else 1.0))
        else:
            nn.init.kaiming_normal_(m.weight, mode="fan_in", nonlinearity="relu")
        if m.bias is not None:
            nn.init.constant_(m.bias, 1.0 if id(m) in ones else 0.0)
