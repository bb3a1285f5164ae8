"""Batch norms as people write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.batchnorm.layers import Published, hard_numbers

C = 6
NUMBERS = hard_numbers(C)


class Vectors(nn.Module):
    """Buffers `weight`, `bias`, `running_mean` and `running_var` of one shape, and eps."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, shape: tuple[int, ...] = (C,)) -> None:
        super().__init__()
        self.eps = 1e-5
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.from_numpy(getattr(NUMBERS, name).copy()).reshape(shape))

    def maps(self, rank: int = 4) -> tuple[Tensor, Tensor]:
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        shift = self.bias - self.running_mean * scale
        shape = (1, -1, 1, 1, 1)[:rank]
        return scale.reshape(shape), shift.reshape(shape)

    def plain(self, x: Tensor) -> Tensor:
        scale, shift = self.maps(x.dim())
        return x * scale + shift


class Function(Vectors):
    """What the test says, of these vectors."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], shape: tuple[int, ...] = (C,)) -> None:
        super().__init__(shape)
        self.compute = compute

    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


class Textbook(Published):
    def __init__(self) -> None:
        super().__init__(C, 4)
        self.double()
        for old, new in zip(("gamma", "beta"), (NUMBERS.weight, NUMBERS.bias), strict=True):
            getattr(self, old).data = torch.from_numpy(new.copy()).reshape(1, C, 1, 1)
        self.moving_mean = torch.from_numpy(NUMBERS.running_mean.copy()).reshape(1, C, 1, 1)
        self.moving_var = torch.from_numpy(NUMBERS.running_var.copy()).reshape(1, C, 1, 1)


class Arrays(nn.Module):
    """Statistics as numpy arrays, weights as lists of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.std = NUMBERS.running_mean, (NUMBERS.running_var + 1e-5) ** 0.5
        self.gamma, self.beta = NUMBERS.weight.tolist(), NUMBERS.bias.tolist()

    def forward(self, x: Tensor) -> Tensor:
        mean, std, gamma, beta = (
            torch.as_tensor(v).to(x).view(1, -1, 1, 1) for v in (self.mean, self.std, self.gamma, self.beta)
        )
        return (x - mean) / std * gamma + beta


class Precomputed(nn.Module):
    """Two numbers a channel, as parameters."""

    def __init__(self) -> None:
        super().__init__()
        affine = NUMBERS.affine()
        self.a = nn.Parameter(torch.from_numpy(affine.scale).reshape(1, C, 1, 1))
        self.b = nn.Parameter(torch.from_numpy(affine.shift).reshape(C, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.b, x, self.a)


class InLists(nn.Module):
    """Parameters in a ParameterDict, statistics in a plain dict."""

    def __init__(self) -> None:
        super().__init__()
        self.p = nn.ParameterDict(
            {"g": torch.from_numpy(NUMBERS.weight.copy()), "b": torch.from_numpy(NUMBERS.bias.copy())}
        )
        self.stats = {"m": torch.from_numpy(NUMBERS.running_mean), "v": torch.from_numpy(NUMBERS.running_var)}

    def forward(self, x: Tensor) -> Tensor:
        x = (x.movedim(1, -1) - self.stats["m"]) * (self.stats["v"] + 1e-5) ** -0.5
        return (x * self.p["g"] + self.p["b"]).movedim(-1, 1)  # type: ignore[no-any-return]


def filled(layer: nn.BatchNorm2d) -> nn.Module:
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(layer, name).data = torch.from_numpy(getattr(NUMBERS, name).copy())
    return layer.double()


class Sub(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class Rescaled(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x) - 3


class WithActivation(nn.BatchNorm2d):
    """As timm has it: what comes after is part of the layer."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__(C)
        self.drop, self.act = nn.Dropout(), act

    def forward(self, x: Tensor) -> Any:
        return self.act(self.drop(super().forward(x)))


class Lazy(Vectors):
    """Makes its factors when it first needs them."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.factors is None:
            self.factors = self.maps()
        return x * self.factors[0] + self.factors[1]


def as_functional(m: Vectors, x: Tensor) -> Tensor:
    return F.batch_norm(x, m.running_mean, m.running_var, m.weight, m.bias, False, 0.0, m.eps)


def in_float32(m: Vectors, x: Tensor) -> Tensor:
    scale, shift = m.maps()
    return (x.float() * scale.float() + shift.float()).to(x.dtype)


def in_place(m: Vectors, x: Tensor) -> Tensor:
    scale, shift = m.maps()
    return x.clone().mul_(scale).add_(shift)


def centred(m: Vectors, x: Tensor) -> Tensor:
    flat = (x - m.running_mean.view(-1, 1, 1)).flatten(2)
    return (flat * m.maps()[0].flatten(2) + m.bias[:, None]).view_as(x)


def as_convolution(m: Vectors, x: Tensor) -> Tensor:
    scale, shift = (v.flatten() for v in m.maps())
    return F.conv2d(x, scale.view(C, 1, 1, 1), shift, groups=C)


def switching(m: Vectors, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        return of_the_batch(m, x)
    return m.plain(x)


def of_the_batch(m: Vectors, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, m.weight, m.bias, True, 0.0, m.eps)


def permuted(m: Vectors, x: Tensor) -> Tensor:
    return (
        F.batch_norm(
            x.permute(0, 2, 3, 1).reshape(-1, C), m.running_mean, m.running_var, m.weight, m.bias, False
        )
        .reshape(x.shape[0], x.shape[2], x.shape[3], C)
        .permute(0, 3, 1, 2)
    )


STYLES: dict[str, Callable[[], nn.Module]] = {
    "the textbook's": Textbook,
    "numpy arrays and lists": Arrays,
    "precomputed, addcmul": Precomputed,
    "in a ParameterDict, movedim, pow": InLists,
    "a subclass of torch's": lambda: filled(Sub(C)),
    "a subclass that rescales": lambda: filled(Rescaled(C)),
    "with an identity activation": lambda: filled(WithActivation(nn.Identity())),
    "factors made at the first call": Lazy,
    "detection libraries' frozen one": lambda: Function(lambda m, x: m.plain(x)),
    "F.batch_norm": lambda: Function(as_functional),
    "F.batch_norm, channels last inside": lambda: Function(permuted),
    "parts of shape (1, C, 1, 1)": lambda: Function(
        lambda m, x: (x - m.running_mean) / torch.sqrt(m.running_var + m.eps) * m.weight + m.bias,
        (1, C, 1, 1),
    ),
    "parts of shape (C, 1, 1)": lambda: Function(
        lambda m, x: m.weight * (x - m.running_mean) / (m.running_var + 1e-3) ** 0.5 + m.bias, (C, 1, 1)
    ),
    "eps outside the root": lambda: Function(
        lambda m, x: (x - m.running_mean) / (torch.sqrt(m.running_var) + 1e-3) * m.weight + m.bias, (C, 1, 1)
    ),
    "lerp": lambda: Function(lambda m, x: torch.lerp(m.bias, x, m.weight), (C, 1, 1)),
    "einsum": lambda: Function(lambda m, x: torch.einsum("nc...,c->nc...", x, m.weight) + m.maps()[1]),
    "in place on a clone": lambda: Function(in_place),
    "flattened": lambda: Function(centred),
    "a depthwise convolution": lambda: Function(as_convolution),
    "computing in float32": lambda: Function(in_float32),
    "a logarithm of the variance": lambda: Function(
        lambda m, x: (x - m.running_mean) * torch.exp(-0.5 * torch.log(m.running_var + m.eps)), (C, 1, 1)
    ),
    "a scale alone": lambda: Function(lambda m, x: x * m.weight, (C, 1, 1)),
    "a shift alone": lambda: Function(lambda m, x: x - m.running_mean, (1, C, 1, 1)),
    "statistics of the batch if grad is on": lambda: Function(switching),
}
