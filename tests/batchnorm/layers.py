"""Batch norms of every flavour with the same hard numbers, and the textbook's layer as it was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bn_deploy.batchnorm import custom
from bn_deploy.batchnorm.params import BatchNormParams

EPS = 1e-5
"""What all of these layers add to the variance."""


class Published(nn.Module):
    """d2l.ai, chapter 8.5, "Implementation from Scratch", word for word but for its name and types."""

    def __init__(self, num_features: int, num_dims: int) -> None:
        super().__init__()
        shape = (1, num_features) if num_dims == 2 else (1, num_features, 1, 1)
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.moving_mean = torch.zeros(shape)
        self.moving_var = torch.ones(shape)

    def forward(self, x: Tensor) -> Tensor:
        if self.moving_mean.device != x.device:
            self.moving_mean = self.moving_mean.to(x.device)
            self.moving_var = self.moving_var.to(x.device)
        y, self.moving_mean, self.moving_var = batch_norm(
            x, self.gamma, self.beta, self.moving_mean, self.moving_var, eps=1e-5, momentum=0.1
        )
        return y


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    moving_mean: Tensor,
    moving_var: Tensor,
    eps: float,
    momentum: float,
) -> tuple[Tensor, Tensor, Tensor]:
    if not torch.is_grad_enabled():
        x_hat = (x - moving_mean) / torch.sqrt(moving_var + eps)
    else:
        assert len(x.shape) in (2, 4)
        if len(x.shape) == 2:
            mean = x.mean(dim=0)
            var = ((x - mean) ** 2).mean(dim=0)
        else:
            mean = x.mean(dim=(0, 2, 3), keepdim=True)
            var = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        x_hat = (x - mean) / torch.sqrt(var + eps)
        moving_mean = (1.0 - momentum) * moving_mean + momentum * mean
        moving_var = (1.0 - momentum) * moving_var + momentum * var
    y = gamma * x_hat + beta
    return y, moving_mean.data, moving_var.data


def hard_numbers(channels: int, seed: int = 0) -> BatchNormParams:
    """Variances from 1e-8 to 1e4, a negative weight in the first channel and a zero one in the second."""
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=channels)
    weight[0] = -1.5
    weight[1:2] = 0.0
    var = 10.0 ** rng.uniform(-8, 4, size=channels)
    var[0], var[2:3] = 1e-8, 1e4
    return BatchNormParams(weight, rng.normal(size=channels), 3 * rng.normal(size=channels), var, EPS)


_TORCH: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {
    2: nn.BatchNorm1d,
    3: nn.BatchNorm1d,
    4: nn.BatchNorm2d,
    5: nn.BatchNorm3d,
}


def _torch(channels: int, rank: int) -> nn.Module:
    return _TORCH[rank](channels, eps=EPS)


@dataclass(frozen=True)
class Kind:
    """One flavour: how a layer of it is made, for which ranks, and what its numbers are called."""

    make: Callable[[int, int], nn.Module]
    ranks: tuple[int, ...]
    names: tuple[str, str, str, str]


FLAVOURS: dict[str, Kind] = {
    "torch": Kind(_torch, (2, 3, 4, 5), ("weight", "bias", "running_mean", "running_var")),
    "custom": Kind(
        lambda channels, rank: custom.BatchNorm(channels, rank, eps=EPS),
        (2, 4),
        ("gamma", "beta", "moving_mean", "moving_var"),
    ),
    "recognised": Kind(Published, (2, 4), ("gamma", "beta", "moving_mean", "moving_var")),
}


def layer(flavour: str, numbers: BatchNormParams, rank: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """A layer of that flavour in eval mode that holds `numbers`, cast to `dtype`."""
    kind = FLAVOURS[flavour]
    module = kind.make(numbers.channels, rank).to(dtype).eval()
    given = (numbers.weight, numbers.bias, numbers.running_mean, numbers.running_var)
    for name, values in zip(kind.names, given, strict=True):
        old = getattr(module, name)
        new = torch.from_numpy(values.copy()).reshape(old.shape).to(dtype)
        if isinstance(old, nn.Parameter):
            old.data = new
        else:
            setattr(module, name, new)
    return module


def random_input(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def output(module: nn.Module, *inputs: Any) -> NDArray[np.float64]:
    """What `module` computes without grad."""
    with torch.no_grad():
        result: NDArray[np.float64] = module(*inputs).double().numpy()
    return result


def contents(network: nn.Module) -> dict[str, Any]:
    """Everything that a network holds: parameters, buffers, plain tensors (as bytes) and plain attributes."""
    found: dict[str, Any] = {}
    for path, module in network.named_modules():
        held = {**module._parameters, **module._buffers, **vars(module)}
        for name, value in held.items():
            if isinstance(value, Tensor):
                found[f"{path}.{name}"] = (id(value), value.dtype, value.detach().double().numpy().tobytes())
            elif isinstance(value, (bool, int, float, str, type(None))):
                found[f"{path}.{name}"] = value
        found[f"{path}.children"] = [(name, id(child)) for name, child in module._modules.items()]
    return found


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Fails if anything in `network` has changed at the end."""
    before = contents(network)
    yield
    assert contents(network) == before
