"""The batch norms that the architectures are built with: torch's, and the textbook's as people write it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.row import Norm

EPS = 1e-5


class Textbook(nn.Module):
    """d2l.ai, chapter 8.5, with its statistics as buffers and its mode by `training`; for any rank.

    This package does not know the class: what it is has to be recognised.
    """

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__()
        shape = (1, channels, *[1] * (rank - 2))
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.moving_mean: Tensor
        self.moving_var: Tensor
        self.register_buffer("moving_mean", torch.zeros(shape))
        self.register_buffer("moving_var", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            axes = [axis for axis in range(x.dim()) if axis != 1]
            mean = x.mean(axes, keepdim=True)
            var = ((x - mean) ** 2).mean(axes, keepdim=True)
            self.moving_mean = 0.9 * self.moving_mean + 0.1 * mean.detach()
            self.moving_var = 0.9 * self.moving_var + 0.1 * var.detach()
        else:
            mean, var = self.moving_mean, self.moving_var
        x_hat = (x - mean) / torch.sqrt(var + EPS)
        return self.gamma * x_hat + self.beta


def _torch(channels: int, rank: int) -> nn.Module:
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
    return kinds[rank](channels, eps=EPS)


NORMS: dict[str, Norm] = {"torch": _torch, "textbook": Textbook}


def paths(network: nn.Module) -> list[str]:
    """Where the batch norms are, in order."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, Textbook)
    return sorted(path for path, module in network.named_modules() if isinstance(module, kinds))
