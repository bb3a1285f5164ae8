"""LeNet with batch norm, layer for layer as in d2l.ai chapter 8.5.

Shapes: N images; (N, 1, 28, 28) -> conv (N, 6, 24, 24) -> pool (N, 6, 12, 12) -> conv (N, 16, 8, 8)
-> pool (N, 16, 4, 4) -> flatten (N, 256) -> (N, 120) -> (N, 84) -> (N, 10).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

NormFactory = Callable[[int, int], nn.Module]
"""(channels, rank of the input) -> the norm layer."""


def lenet(norm: NormFactory) -> nn.Sequential:
    """Builds the network, (N, 1, 28, 28) -> logits (N, 10), with a norm layer after each hidden layer."""
    return nn.Sequential(
        nn.Conv2d(1, 6, kernel_size=5),
        norm(6, 4),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Conv2d(6, 16, kernel_size=5),
        norm(16, 4),
        nn.Sigmoid(),
        nn.AvgPool2d(kernel_size=2, stride=2),
        nn.Flatten(),
        nn.Linear(256, 120),
        norm(120, 2),
        nn.Sigmoid(),
        nn.Linear(120, 84),
        norm(84, 2),
        nn.Sigmoid(),
        nn.Linear(84, 10),
    )
