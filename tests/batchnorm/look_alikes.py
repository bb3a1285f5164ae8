"""Layers that are one thing away from being a batch norm, with the reason why each is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.batchnorm.styles import (
    C,
    Function,
    Sub,
    Vectors,
    WithActivation,
    filled,
    of_the_batch,
)


class Counting(Vectors):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.plain(x)


class Moving(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        y = self.plain(x)
        self.running_mean = 0.9 * self.running_mean + 0.1 * x.mean((0, 2, 3))
        return y


class Optional(Vectors):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.plain(x) if mask is None else self.plain(x) * mask


class Called(Vectors):
    def __call__(self, x: Tensor) -> Any:
        return 2 * super().__call__(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x)


class WithLayer(Vectors):
    """A squeeze-and-excitation gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(C, C, 1).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()  # type: ignore[no-any-return]


class WrongTraining(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, not self.training)


def hooked() -> nn.Module:
    layer = Function(lambda m, x: m.plain(x))
    layer.register_forward_hook(lambda module, inputs, y: 2 * y)
    return layer


def replaced(name: str, value: object) -> nn.Module:
    layer = Function(lambda m, x: m.plain(x))
    delattr(layer, name)
    setattr(layer, name, value)
    return layer


def remembering() -> Callable[[Any, Tensor], Tensor]:
    """Counts its calls where no copy of the layer has a count of its own."""
    calls: list[int] = []

    def compute(m: Any, x: Tensor) -> Tensor:
        calls.append(1)
        return m.plain(x) + 1e-3 * len(calls)  # type: ignore[no-any-return]

    return compute


def of_one_size(m: Any, x: Tensor) -> Tensor:
    size = m.weight.numel() + 3  # a number that is written nowhere
    return m.plain(x) if x.shape[2] != size else m.plain(x) + 1  # type: ignore[no-any-return]


def of_a_written_size(m: Any, x: Tensor) -> Tensor:
    return m.plain(x) if x.shape[2] != 16 else m.plain(x) + 1  # type: ignore[no-any-return]


LARGE = {"wide": 640}


def above_a_size_elsewhere(m: Any, x: Tensor) -> Tensor:
    return _is_wide(x) + m.plain(x)  # type: ignore[no-any-return]


def _is_wide(x: Tensor) -> int:
    return int(x.shape[-1] > LARGE["wide"])


def of_an_attribute() -> nn.Module:
    layer = Function(lambda m, x: m.plain(x) if len(x) < m.most else m.plain(x) + 1)
    layer.__dict__["most"] = 33
    return layer


def failing(m: Any, x: Tensor) -> Tensor:
    raise RuntimeError("only for pictures\nand more")


def overwriting(m: Any, x: Tensor) -> Tensor:
    return x.mul_(m.maps()[0]).add_(m.maps()[1])


def layer_norm(m: Any, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[1:]) * m.weight.view(-1, 1, 1)  # type: ignore[no-any-return]


def pixel_norm(m: Any, x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-5) * m.weight.view(-1, 1, 1)  # type: ignore[no-any-return]


LOOK_ALIKES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "statistics of the batch": (lambda: Function(of_the_batch), "it computes batch statistics"),
    "training and eval swapped": (lambda: WrongTraining(C), "it computes batch statistics"),
    "torch's without statistics": (
        lambda: Sub(C, track_running_stats=False),
        "it computes batch statistics",
    ),
    "an instance norm": (
        lambda: Function(lambda m, x: F.instance_norm(x, weight=m.weight, bias=m.bias)),
        "other places of the channel",
    ),
    "a layer norm": (lambda: Function(layer_norm), "other places of the channel"),
    "a group norm": (
        lambda: Function(lambda m, x: F.group_norm(x, 2, m.weight, m.bias)),
        "other places of the channel",
    ),
    "a pixel norm": (lambda: Function(pixel_norm), "other channels of the sample"),
    "a gate": (WithLayer, "it holds layers of its own"),
    "a gate without a layer": (
        lambda: Function(lambda m, x: m.plain(x) * x.mean((2, 3), keepdim=True).sigmoid()),
        "other places of the channel",
    ),
    "a gate of the element": (
        lambda: Function(lambda m, x: m.plain(x) * torch.sigmoid(x)),
        "no affine map",
    ),
    "a clamp near zero": (lambda: Function(lambda m, x: m.plain(x).clamp(-3, 3)), "no affine map"),
    "a clamp far away": (lambda: Function(lambda m, x: m.plain(x).clamp(-1e15, 1e15)), "no affine map"),
    "a clamp of one side": (lambda: Function(lambda m, x: m.plain(x).clamp(max=1e15)), "no affine map"),
    "a dead zone about its mean": (
        lambda: Function(lambda m, x: F.hardshrink(x - m.running_mean.view(-1, 1, 1), 1e-6)),
        "no affine map",
    ),
    "a dead zone about zero": (
        lambda: Function(lambda m, x: m.plain(F.hardshrink(x, 1e-9))),
        "no affine map",
    ),
    "a relu": (lambda: filled(WithActivation(nn.ReLU())), "no affine map"),
    "a slope for negative values": (
        lambda: Function(lambda m, x: F.prelu(x, m.weight)),
        "no affine map",
    ),
    "rounding": (lambda: Function(lambda m, x: torch.round(m.plain(x) * 2**20) / 2**20), "no affine map"),
    "half precision inside": (lambda: Function(lambda m, x: m.plain(x).half().double()), "not finite far"),
    "dropout that stays": (lambda: Function(lambda m, x: F.dropout(m.plain(x), 0.01)), "called again"),
    "noise": (lambda: Function(lambda m, x: m.plain(x) + 1e-3 * torch.randn_like(x)), "called again"),
    "weights by place": (
        lambda: Function(lambda m, x: m.plain(x) * torch.arange(1, x.shape[-1] + 1)),
        "no affine map",
    ),
    "weights by sample": (
        lambda: Function(lambda m, x: m.plain(x) + torch.arange(x.shape[0]).view(-1, 1, 1, 1)),
        "no affine map",
    ),
    "another map at one size": (lambda: Function(of_one_size), "no affine map"),
    "another map at a size its code names": (lambda: Function(of_a_written_size), "no affine map"),
    "another map above a size elsewhere": (lambda: Function(above_a_size_elsewhere), "no affine map"),
    "another map from an attribute's size": (of_an_attribute, "no affine map"),
    "another map in float32": (
        lambda: Function(lambda m, x: m.plain(x) + (x.dtype is torch.float32)).float(),
        "no affine map of each channel when it runs in float32",
    ),
    "channels mixed": (lambda: Function(lambda m, x: m.plain(x).roll(1, 1)), "other channels"),
    "samples mixed": (lambda: Function(lambda m, x: m.plain(x).flip(0)), "other samples"),
    "overwriting its input": (lambda: Function(overwriting), "overwrites its input"),
    "another shape": (lambda: Function(lambda m, x: m.plain(x)[..., ::2]), "tensor of the shape"),
    "no tensor": (lambda: Function(lambda m, x: (m.plain(x),)), "tensor of the shape"),
    "a failing forward": (lambda: Function(failing), "RuntimeError: only for pictures"),
    "a second argument": (Optional, "its forward takes"),
    "a call of its own": (Called, "a __call__ of its own"),
    "hooks": (hooked, "it has forward hooks"),
    "a counter": (Counting, "its forward changes calls"),
    "moving statistics": (Moving, "computes something else|called again|changes|no affine"),
    "a drift": (lambda: Function(remembering()), "called again"),
    "any number of channels": (lambda: Function(lambda m, x: x), "any number of channels"),
    "vectors of two lengths": (lambda: replaced("bias", torch.zeros(4)), "disagree about the number"),
    "a matrix": (lambda: replaced("bias", torch.zeros(C, C)), "no number per channel"),
    "a table of whole numbers": (lambda: replaced("bias", torch.arange(C)), "a tensor of int64"),
    "channels last": (
        lambda: Function(lambda m, x: (x - m.running_mean) * m.weight, (1, 1, 1, C)),
        "the last axis of its input, not axis 1",
    ),
    "statistics that are not finite": (
        lambda: replaced("running_var", torch.full((C,), float("nan"))),
        r"running_var is not finite in 6 channel\(s\)",
    ),
    "a variance without a root": (
        lambda: replaced("running_var", torch.full((C,), -1.0).double()),
        "its output is not finite",
    ),
}
