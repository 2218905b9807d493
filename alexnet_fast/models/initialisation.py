"""The weights that a network begins with: scaled to give every layer outputs of unit scale, or as published."""

from __future__ import annotations

import math

import torch
from torch import nn

from ..images import IMAGENET_STD
from .response_norm import ResponseNorm

_LOGITS = 0.1  # standard deviation of the last layer's outputs at the start, so that the loss is near ln(classes)
# Share of the mean weight that is taken off each unit of a fully connected layer. Two images of Tiny ImageNet begin
# with a mean cosine of 0.93 between their logits without (`alexnet`), 0.78 with it. 200 classes, 375 steps of 64: 1.3%
# top-1 without, 3.1% with it; 1,170 steps of 256, a quarter of the width: 14.5% and 14.3%; ten classes: 45.6% and
# 45.8%. In the convolutions too: 3.9%, 14.0%, 46.4%, and less than without on five classes (by 0.4 to 2.8 points, three
# seeds) and on 20 (40.1%, and 41.9% without, three seeds).
_CENTRING = 0.7
_ALIKE = 0.4  # share of the mean square behind a ReLU, pooled or not, that the mean of the values makes
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
    networks without batch normalisation begin with outputs of 0.79 to 1.27 (standard deviation, Tiny ImageNet at 64
    and 224 pixels).

    Behind a ReLU all values are positive, so a unit with a positive mean weight answers to every image alike, the more
    with each layer. Fully connected units begin with most of that mean taken off (Huang et al. 2017 take off all of it,
    in every layer and at every step). Batch normalisation does so itself.
    """
    centre = 0.0 if any(isinstance(m, nn.BatchNorm2d) for m in modules) else _CENTRING
    power = 1.0  # mean square of what goes into the next layer
    for module in modules:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            taken = centre if isinstance(module, nn.Linear) else 0.0
            left = power * (1 - _ALIKE * (1 - (1 - taken) ** 2))
            scale = _LOGITS if module is modules[-1] else 1.0
            nn.init.normal_(module.weight, std=scale / math.sqrt(left * module.weight[0].numel()))
            if taken:
                with torch.no_grad():
                    module.weight.sub_(module.weight.mean(dim=1, keepdim=True), alpha=taken)
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
