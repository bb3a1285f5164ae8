"""Small random networks with batch norms of hard statistics, to be folded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SHAPE = (4, 6, 6)
"""Of one image."""


def network(seed: int) -> nn.Module:
    """(N, 4, 6, 6) -> logits (N, 5): two convolutions, one of them in groups, and two linear layers.

    Variances from 1e-8 to 1e4, scales of which one is zero and one negative in each batch norm, with and
    without bias, with one of several activations.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        groups = (1, 2, 4)[seed % 3]
        activation = (nn.Sigmoid, nn.ReLU, nn.Tanh, nn.SiLU, nn.Hardswish)[seed % 5]
        made = nn.Sequential(
            nn.Conv2d(4, 8, 3, groups=groups, bias=seed % 2 == 0, padding=seed % 2),
            nn.BatchNorm2d(8),
            activation(),
            nn.Conv2d(8, 6, 3, bias=seed % 4 < 2),
            nn.BatchNorm2d(6),
            activation(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 12),
            nn.BatchNorm1d(12),
            activation(),
            nn.Linear(12, 5),
        ).eval()
        for layer in made:
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                harden(layer)
    return made


def harden(layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Random statistics and parameters."""
    assert isinstance(layer.running_var, Tensor)
    assert isinstance(layer.running_mean, Tensor)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
        layer.weight[0], layer.weight[1] = 0.0, -layer.weight[1].abs()
        layer.running_var.copy_(10 ** (12 * torch.rand_like(layer.running_var) - 8))
        layer.running_mean.copy_(torch.randn_like(layer.running_mean) * layer.running_var.sqrt())


def images(seed: int, count: int) -> Tensor:
    """(count, 4, 6, 6) float32."""
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))
