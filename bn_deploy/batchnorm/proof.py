"""The proof that a layer is an affine map per channel and nothing more: it predicts what the layer gives.

A prediction is made of one element of the input and the two numbers of its channel. So whatever else has a
part in the output (another sample, another place, an earlier call, chance) shows as a wrong prediction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from bn_deploy.batchnorm.affine import Affine, Vector
from bn_deploy.batchnorm.holdings import Array, Unlike
from bn_deploy.batchnorm.tensors import widest_dtype
from bn_deploy.batchnorm.trial import Arithmetic, Trial
from bn_deploy.batchnorm.written import numbers_about

FAR = 80
"""Probes reach 2**80 either way: past every bound that anybody clamps at, and times a scale of 2**40 still
inside float32, for layers that compute in it."""

NEAR = -60
"""And so close to the points where a layer may bend (zero of its input, of its output, its own numbers)."""

ROUNDINGS = 16
"""Per operation of the layer. A whole batch norm in one operation makes at most eight: sum, root, reciprocal
and product for the scale, product and difference for the shift, product and sum for the output. As many again
stand in the two numbers that the prediction is made of, which come from the layer too."""


LARGEST_SIZE, MOST_SIZES = 1100, 24
"""Of the sizes that its code names, those that are tried: past 1024, and enough for eight numbers."""


@dataclass(frozen=True)
class Layout:
    """Inputs of `rank` axes with the channels at `axis`."""

    rank: int
    axis: int

    def shape(self, channels: int, batch: int = 3, places: tuple[int, ...] = (2, 5, 7)) -> tuple[int, ...]:
        """The shape of an input: `batch` samples, `places` as far as there are axes for them."""
        shape = [batch, *places[: self.rank - 2]]
        shape.insert(self.axis, channels)
        return tuple(shape)

    def spread(self, vector: Array) -> Array:
        """(..., C) reshaped so that it broadcasts along the channels of an input, which has one place."""
        return vector.reshape(self.shape(vector.shape[-1], vector.size // vector.shape[-1], (1, 1, 1)))


@dataclass(frozen=True)
class Claim:
    """What a layer is said to be.

    Attributes:
        affine: the map.
        size: (C,) the largest number that the layer holds for the channel, with 1 at least: a bound for the
            mean and the bias that enter its sums.
        operations: how many the layer makes of its input.
        eps: of the narrowest type that it computes in.
    """

    affine: Affine
    size: Vector
    operations: int
    eps: float

    @property
    def relative(self) -> float:
        """The relative error of one output, all roundings of the layer and the prediction together."""
        return ROUNDINGS * self.operations * self.eps

    def bound(self, x: Array, layout: Layout) -> Array:
        """How far rounding can take the output for x from the prediction.

        Each rounding is of an intermediate no larger than |scale| (|x| + size) + size + |shift|: it is the
        size of the operands that counts, not of the result, in which they may cancel.
        """
        scale, rest = np.abs(self.affine.scale), self.size + np.abs(self.affine.shift)
        bound: Array = layout.spread(scale) * (np.abs(x) + layout.spread(self.size)) + layout.spread(rest)
        return self.relative * bound

    def check(self, x: Array, y: Array, layout: Layout) -> None:
        """Compares y, which the layer gave for x, with the prediction.

        Raises:
            Unlike: it is another.
        """
        if not np.all(np.abs(self.affine(x, layout.axis) - y) <= self.bound(x, layout)):
            raise Unlike("in eval mode it is no affine map of each channel")

    def agrees(self, other: Affine) -> bool:
        """Whether `other` is the same map but for rounding."""
        scale, shift = np.abs(self.affine.scale), np.abs(self.affine.shift)
        slack = self.relative * (scale * self.size + self.size + shift)
        return bool(
            np.all(np.abs(other.scale - self.affine.scale) <= self.relative * scale)
            and np.all(np.abs(other.shift - self.affine.shift) <= slack)
        )


def claim(trial: Trial, layout: Layout, size: Vector) -> Claim:
    """The only affine map that the layer can be: its output at zero is the shift, its slope the scale.

    The slope is taken between the far ends, where the shift is lost in rounding and takes no digits from it.

    Raises:
        Unlike: it fails there, or what it gives is not finite.
    """
    ends = np.array([0.0, 2.0**FAR, -(2.0**FAR)])
    x = np.broadcast_to(layout.spread(np.repeat(ends[:, None], size.size, 1)), layout.shape(size.size)).copy()
    with Arithmetic() as seen:
        y = trial(x)
    at_zero, up, down = np.moveaxis(y, layout.axis, 1).reshape(3, size.size, -1)[:, :, 0]
    if not np.isfinite(y).all():
        far = "" if not np.isfinite(at_zero).all() else " far from zero"
        raise Unlike(f"its output is not finite{far}")
    affine = Affine(up / 2.0 ** (FAR + 1) - down / 2.0 ** (FAR + 1), at_zero)
    return Claim(affine, size, seen.operations, seen.eps)


@dataclass(frozen=True)
class Case:
    """A layer, what it is said to be, the inputs it takes, and its numbers, (K, C), where it may bend."""

    module: nn.Module
    trial: Trial
    claim: Claim
    layout: Layout
    centres: Array

    @property
    def channels(self) -> int:
        """C."""
        return self.claim.affine.channels

    @cached_property
    def scattered(self) -> Array:
        """Some eight thousand numbers, 16 a channel at least: centre + sign * 2**exponent, all drawn."""
        generator, c = np.random.default_rng(0), self.channels
        shape = (max(16, 8192 // c), c)
        affine = self.claim.affine
        roots = -affine.shift / np.where(affine.scale == 0, 1.0, affine.scale)
        centres = np.vstack([self.centres, roots, np.zeros(c)])
        centre = np.take_along_axis(centres, generator.integers(len(centres), size=shape), axis=0)
        sign = generator.choice([-1.0, 1.0], size=shape)
        return self.layout.spread(centre + sign * 2.0 ** generator.uniform(NEAR, FAR, size=shape))


def _near_and_far(case: Case) -> None:
    """Values of all sizes and both signs, mixed, about every point where the layer may bend."""
    case.claim.check(case.scattered, case.trial(case.scattered), case.layout)


def _batches_and_shapes(case: Case) -> None:
    """One sample, many, as many as channels; one place, many, as many as channels: all ordinary numbers."""
    c, generator = case.channels, np.random.default_rng(1)
    some = c if c <= 8 else 2
    for batch, places in ((1, (1, 1, 1)), (2, (9, 1, 1)), (5, (1, 3, 2)), (some, (some, some, 1))):
        mean = generator.choice(case.centres)
        x = generator.standard_normal(case.layout.shape(c, batch, places)) + case.layout.spread(mean)
        case.claim.check(x, case.trial(x), case.layout)


def _written_sizes(case: Case) -> None:
    """The sizes that its code or its attributes name, and those beside them: there its output may change."""
    c, generator = case.channels, np.random.default_rng(4)
    near = {n + step for n in numbers_about(case.module) for step in (-1, 0, 1)}
    sizes = sorted(n for n in near if 1 < n <= LARGEST_SIZE)[:MOST_SIZES]
    for size in sizes:
        for batch, places in ((size, (1, 1, 1)), (1, (size, 2, 1)), (2, (1, size, 1)), (1, (1, 1, size))):
            x = generator.standard_normal(case.layout.shape(c, batch, places))
            case.claim.check(x, case.trial(x), case.layout)


def _again(case: Case) -> None:
    """After all these calls it does what it did at first, and holds what it held."""
    x = np.random.default_rng(3).standard_normal(case.layout.shape(case.channels))
    before = case.trial.state()
    case.claim.check(x, case.trial(x), case.layout)
    after = case.trial.state()
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            raise Unlike(f"in eval mode its forward changes {name}")


def _in_its_own_type(case: Case) -> None:
    """Numbers of about one in the type that the layer was made for, as far as that type can hold the sums."""
    own = widest_dtype(case.module)
    x = np.random.default_rng(2).standard_normal(case.layout.shape(case.channels))
    x = torch.from_numpy(x).to(own).double().numpy()
    y = Trial(case.module, None)(x, own)
    narrow = replace(case.claim, eps=max(case.claim.eps, torch.finfo(own).eps))
    fits = narrow.bound(x, case.layout) / narrow.relative < torch.finfo(own).max
    try:
        narrow.check(x, np.where(fits, y, case.claim.affine(x, case.layout.axis)), case.layout)
    except Unlike as error:
        raise Unlike(f"{error} when it runs in {str(own).removeprefix('torch.')}") from error


STEPS: tuple[Callable[[Case], None], ...] = (
    *(_near_and_far, _batches_and_shapes, _written_sizes),
    *(_again, _in_its_own_type),
)
"""Each raises Unlike if it refutes the claim. `_again` comes after others: it asks what they left behind."""


def prove(case: Case, *, fully: bool = True) -> None:
    """Tries to refute the claim, by the first step alone or by all.

    Raises:
        Unlike: it is refuted; the text says by what.
    """
    for step in STEPS if fully else STEPS[:1]:
        step(case)
