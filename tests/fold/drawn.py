"""Small networks drawn at random from the operators that folding knows, and some that stop it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.batchnorm.layers import FLAVOURS, hard_numbers, layer

CHANNELS = 4
"""Of every image between two steps."""

SIZE = 6


class Step(nn.Module):
    """One step: a function of the step's own layers and an image (N, 4, H, W), to another such image."""

    def __init__(self, course: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.course = course
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.course(self, x)


def conv(draw: random.Random, **options: Any) -> nn.Module:
    kernel = draw.choice((1, 3))
    mode = draw.choice(("zeros", "zeros", "reflect", "replicate"))
    given = {
        "padding": draw.choice((0, kernel // 2)),
        "padding_mode": mode,
        "groups": draw.choice((1, 1, 2, 4)),
        "bias": draw.random() < 0.5,
        **options,
    }
    return nn.Conv2d(CHANNELS, CHANNELS, kernel, **given)


def transposed(draw: random.Random) -> nn.Module:
    options: dict[str, Any] = {"groups": draw.choice((1, 2)), "bias": draw.random() < 0.5}
    return nn.ConvTranspose2d(CHANNELS, CHANNELS, draw.choice((1, 3)), padding=0, **options)


def norm(draw: random.Random, rank: int = 4) -> nn.Module:
    flavour = draw.choice([name for name, row in FLAVOURS.items() if rank in row.ranks])
    numbers = hard_numbers(CHANNELS, draw.randrange(1000))
    # Moderate ones: what is checked here is the dataflow, and a few in a row must not lose all digits.
    numbers.running_var[:] = 0.5 + abs(numbers.weight)
    return layer(flavour, numbers, rank)


def same_size(y: Tensor, like: Tensor) -> Tensor:
    return y[..., : like.shape[-2], : like.shape[-1]]


def pooled(pool: Callable[..., Tensor], **options: Any) -> Step:
    return Step(lambda _, x: pool(x, 2, stride=1, **options) if min(x.shape[2:]) > 1 else x)


def scaled(draw: random.Random) -> Step:
    vector = nn.Parameter(torch.randn(CHANNELS, 1, 1))
    return draw.choice(
        [
            Step(lambda m, x: x * m.vector, vector=vector),
            Step(lambda m, x: m.vector + x, vector=vector),
            Step(lambda _, x: 1.5 - x / 2),
        ]
    )


def branches(draw: random.Random) -> Step:
    """Two branches of a layer and a batch norm that meet."""
    one, two = (nn.Sequential(conv(draw, padding=0), norm(draw)) for _ in range(2))

    def split(m: Any, x: Tensor) -> Tensor:
        a, b = (torch.chunk(branch(x), 2, 1) for branch in (m.one, m.two))
        size = min(a[0].shape[2], b[0].shape[2])
        return torch.cat([half[:, :, :size, :size] for half in (a[1], b[0])], 1)

    def add(m: Any, x: Tensor) -> Tensor:
        a, b = m.one(x), m.two(x)
        size = min(a.shape[2], b.shape[2])
        return a[:, :, :size, :size] + b[:, :, :size, :size]  # type: ignore[no-any-return]

    return Step(draw.choice((split, add)), one=one, two=two)


def moved(draw: random.Random) -> Step:
    """Elements change places, and channels with them."""
    order = torch.tensor(draw.sample(range(CHANNELS), CHANNELS))
    return Step(
        draw.choice(
            [
                lambda _, x: functional.channel_shuffle(x, 2),
                lambda _, x: x.reshape(x.shape[0], 2, 2, *x.shape[2:]).transpose(1, 2).flatten(1, 2),
                lambda _, x: x.permute(0, 2, 3, 1).flip(1).permute(0, 3, 1, 2),
                lambda _, x: x.flip(1),
                lambda m, x: x[:, m.order],
                lambda _, x: functional.pixel_unshuffle(functional.interpolate(x, scale_factor=2.0), 2)[
                    :, ::4
                ],
                lambda _, x: x.flatten(2).unflatten(2, x.shape[2:]),
                lambda _, x: x.roll(1, 1),
            ]
        ),
        order=nn.Buffer(order),
    )


def functional_calls(draw: random.Random) -> Step:
    def course(m: Any, x: Tensor) -> Tensor:
        y = functional.conv2d(x, m.conv.weight, m.conv.bias, groups=m.conv.groups)
        bn = m.bn
        return functional.batch_norm(y, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)

    return Step(
        course, conv=conv(draw, padding=0, padding_mode="zeros"), bn=layer("torch", hard_numbers(4), 4)
    )


def shared(draw: random.Random) -> Step:
    """A layer that is called twice, with a batch norm for each call, or for both."""
    again = draw.random() < 0.5
    own = {} if again else {"other": norm(draw)}

    def course(m: Any, x: Tensor) -> Tensor:
        y = m.bn(m.conv(x))
        return (m.bn if again else m.other)(m.conv(y))  # type: ignore[no-any-return]

    return Step(course, conv=conv(draw, padding=0), bn=norm(draw), **own)


STEPS: dict[str, Callable[[random.Random], nn.Module]] = {
    "conv": conv,
    "conv again": conv,
    "transposed": transposed,
    "norm": norm,
    "norm again": norm,
    "norm once more": norm,
    "relu": lambda _: nn.ReLU(),
    "leaky relu": lambda _: Step(lambda _, x: functional.leaky_relu(x + 1, 0.1, inplace=True)),
    "dropout": lambda _: nn.Dropout(),
    "identity": lambda _: nn.Identity(),
    "mean": lambda _: pooled(functional.avg_pool2d),
    "mean of the inside": lambda _: pooled(functional.avg_pool2d, padding=1, count_include_pad=False),
    "mean with zeros": lambda _: pooled(functional.avg_pool2d, padding=1),
    "max": lambda _: pooled(functional.max_pool2d),
    "nearest": lambda _: Step(lambda _, x: functional.interpolate(x, scale_factor=2.0)),
    "linear": lambda _: Step(lambda _, x: functional.interpolate(x, size=(5, 5), mode="bilinear")),
    "crop": lambda _: Step(lambda _, x: x[:, :, 1:, :-1] if x.shape[2] > 2 else x),
    "reflect": lambda _: Step(lambda _, x: functional.pad(x, (1, 0, 0, 1), mode="replicate")),
    "zeros": lambda _: Step(lambda _, x: functional.pad(x, (0, 1, 1, 0))),
    "residual": lambda d: Step(
        lambda m, x: x[..., : (y := m.bn(m.conv(x))).shape[-2], : y.shape[-1]] + y, conv=conv(d), bn=norm(d)
    ),
    "scaled": scaled,
    "branches": branches,
    "moved": moved,
    "functions": functional_calls,
    "shared": shared,
}

HEADS: dict[str, Callable[[random.Random], list[nn.Module]]] = {
    "none": lambda _: [],
    "linear": lambda d: [
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(CHANNELS, CHANNELS, bias=d.random() < 0.5),
        norm(d, 2),
    ],
    "norm, linear": lambda d: [Step(lambda _, x: x.mean((2, 3))), norm(d, 2), nn.Linear(CHANNELS, 3)],
}


def network(names: list[str], head: str, seed: int) -> nn.Module:
    """The network of these steps, in float64 and eval mode."""
    draw = random.Random(seed)  # noqa: S311 - no secrets
    torch.manual_seed(seed)
    steps = [STEPS[name](draw) for name in names] + HEADS[head](draw)
    return nn.Sequential(*steps).double().eval().requires_grad_(requires_grad=False)
