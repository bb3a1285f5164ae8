"""An affine map on a tensor of any rank, and how it moves with the tensor's layout. numpy only.

`batchnorm.affine.Affine` is a map over one axis; inside a graph the same map may lie along any axis, or along
several at once after a reshape. A `Field` says for each element which scale and shift it gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.graph.layout import Dims, Run, runs
from bn_deploy.folding.outcome import Refusal

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Field:
    """y = scale * x + shift for a tensor x, in float64; both arrays have the rank of x.

    Attributes:
        scale: finite; each axis is 1, where the map does not depend on it, or the size of x.
        shift: likewise.

    Raises:
        Refusal: the arrays hold NaN or infinity.
    """

    scale: Array
    shift: Array

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            array = np.asarray(getattr(self, name), dtype=np.float64)
            if not np.isfinite(array).all():
                raise Refusal(f"its {name} is not finite")
            object.__setattr__(self, name, compact(array))
        if self.scale.ndim != self.shift.ndim:
            raise ValueError(f"a scale of rank {self.scale.ndim}, but a shift of rank {self.shift.ndim}")

    @classmethod
    def identity(cls, rank: int) -> Field:
        """The map that changes nothing."""
        return cls(np.ones([1] * rank), np.zeros([1] * rank))

    @classmethod
    def of(cls, affine: Affine, axis: int, rank: int) -> Field:
        """`affine` along `axis` of a tensor of `rank` axes."""
        shape = [1] * rank
        shape[axis] = affine.channels
        return cls(affine.scale.reshape(shape), affine.shift.reshape(shape))

    @property
    def rank(self) -> int:
        """The number of axes of x."""
        return self.scale.ndim

    @cached_property
    def varying(self) -> frozenset[int]:
        """The axes on which the map depends."""
        sizes = zip(self.scale.shape, self.shift.shape, strict=True)
        return frozenset(axis for axis, pair in enumerate(sizes) if max(pair) > 1)

    @cached_property
    def shifts(self) -> bool:
        """Whether any shift is not zero."""
        return bool(self.shift.any())

    @cached_property
    def scales(self) -> bool:
        """Whether any scale is not one."""
        return bool((self.scale != 1).any())

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return not self.shifts and not self.scales

    @property
    def scaling(self) -> Field:
        """The same map without its shift."""
        return Field(self.scale, np.zeros([1] * self.rank))

    def same(self, other: Field) -> bool:
        """Whether the two are one map, to the last bit."""
        return np.array_equal(self.scale, other.scale) and np.array_equal(self.shift, other.shift)

    def then(self, after: Field) -> Field:
        """The one map that does `self` first and `after` second (law 4)."""
        return Field(after.scale * self.scale, after.scale * self.shift + after.shift)

    def ahead_of(self, fixed: Field) -> Field:
        """The map F that does before `fixed` what `self` does after it: self(fixed(x)) = fixed(F(x)).

        With y = g x + h fixed, f (g x + h) + e = g (f x + ((f - 1) h + e) / g) + h. Where g is zero all
        become h whatever comes before, so `self` has to leave h as it is.

        Raises:
            Refusal: there is no such map, or its numbers are not finite.
        """
        moved = (self.scale - 1) * fixed.shift + self.shift
        moved, scale = np.broadcast_arrays(moved, fixed.scale)
        if ((scale == 0) & (moved != 0)).any():
            raise Refusal("a scale of zero after it would swallow its shift")
        return Field(self.scale, np.divide(moved, scale, out=np.zeros(moved.shape), where=scale != 0))

    def behind(self, fixed: Field) -> Field:
        """The map F that does after `fixed` what `self` does before it: fixed(self(x)) = F(fixed(x)).

        With y = g x + h fixed, g (f x + e) + h = f (g x + h) + (1 - f) h + g e.
        """
        return Field(self.scale, (1 - self.scale) * fixed.shift + fixed.scale * self.shift)

    def __call__(self, x: Array) -> Array:
        """Applies the map to x, or to a constant that broadcasts to x."""
        result: Array = x * self.scale + self.shift
        return result

    def along(self, axis: int, channels: int) -> Affine:
        """The map as one over the `channels` of `axis`.

        Raises:
            Refusal: it depends on another axis, or on another number of channels.
        """
        if self.varying - {axis}:
            raise Refusal(f"the map varies along axes {sorted(self.varying)}, not along axis {axis} alone")
        count = max(self.scale.size, self.shift.size)
        if count not in (1, channels):
            raise Refusal(f"the map has {count} channels, the layer {channels}")
        parts = (self.scale.reshape(-1), self.shift.reshape(-1))
        return Affine(*(part if part.size == channels else np.full(channels, part[0]) for part in parts))

    def on_axes(self, axes: Sequence[int]) -> Field:
        """The map of a transposed tensor, whose axis i is axis `axes[i]` of x."""
        return Field(self.scale.transpose(axes), self.shift.transpose(axes))

    def take(self, axis: int, index: slice | NDArray[np.int64]) -> Field:
        """The map of the part of x at `index` of `axis`."""
        return self._each(lambda part: part[(slice(None),) * axis + (index,)], axis)

    def put(self, axis: int, size: int, index: slice | NDArray[np.int64]) -> Field:
        """The map that is `self` at `index` of an axis of that size, and changes nothing elsewhere.

        Raises:
            Refusal: two maps would meet in one place.
        """
        whole = []
        for part, rest in ((self.scale, 1.0), (self.shift, 0.0)):
            full = np.full((*part.shape[:axis], size, *part.shape[axis + 1 :]), rest)
            where = (slice(None),) * axis + (index,)
            full[where] = part
            if not np.array_equal(full[where], np.broadcast_to(part, full[where].shape)):
                raise Refusal("the same channel is used twice with different maps")
            whole.append(full)
        return Field(*whole)

    def reduced(self, axes: Sequence[int]) -> Field:
        """The map without `axes`, on which it must not depend."""
        return Field(self.scale.squeeze(tuple(axes)), self.shift.squeeze(tuple(axes)))

    def expanded(self, axes: Sequence[int]) -> Field:
        """The map with new `axes`, counted in the result, on which it does not depend."""
        return Field(np.expand_dims(self.scale, tuple(axes)), np.expand_dims(self.shift, tuple(axes)))

    def lifted(self, rank: int) -> Field:
        """The map of x broadcast to `rank` axes."""
        return self.expanded(range(rank - self.rank)) if rank > self.rank else self

    def restricted(self, dims: Dims) -> Field:
        """The map on an operand of shape `dims` that is broadcast to x.

        Raises:
            Refusal: the map differs between elements of x that are one element of the operand.
        """
        lost = self.rank - len(dims)
        sizes = [max(pair) for pair in zip(self.scale.shape, self.shift.shape, strict=True)]
        if any(axis < lost or dims[axis - lost] != sizes[axis] for axis in self.varying):
            raise Refusal("an operand before it is broadcast along its channels")
        return self.reduced(range(lost)) if lost else self

    def reshaped(self, before: Dims, after: Dims) -> Field:
        """The map of x, of shape `before`, reshaped row by row to `after`.

        Raises:
            Refusal: the sizes that are known do not show where each element goes.
        """
        found = runs(before, after)
        return Field(*(_reshape(part, before, after, found) for part in (self.scale, self.shift)))

    def _each(self, take: object, axis: int) -> Field:
        assert callable(take)  # noqa: S101 - a local function
        return Field(*(take(part) if part.shape[axis] > 1 else part for part in (self.scale, self.shift)))


def compact(array: Array) -> Array:
    """The same values, with size 1 on every axis along which they do not change."""
    for axis, size in enumerate(array.shape):
        if size > 1:
            first = array[(slice(None),) * axis + (slice(1),)]
            if (array == first).all():
                array = first
    return array


def _reshape(part: Array, before: Dims, after: Dims, found: Sequence[Run]) -> Array:
    """One array of a field, reshaped run by run."""
    full: list[int] = []
    target: list[int] = []
    for run in found:
        sizes = [part.shape[axis] for axis in run.before]
        if max(sizes, default=1) == 1:
            full += sizes
            target += [1] * len(run.after)
        elif run.one_to_one:
            full += sizes
            target += sizes
        elif run.exact:
            full += [int(before[axis] or 0) for axis in run.before]
            target += [int(after[axis] or 0) for axis in run.after]
        else:
            raise Refusal(f"how {_text(before)} is reshaped to {_text(after)} depends on unknown sizes")
    return np.broadcast_to(part, full).reshape(target)


def _text(dims: Dims) -> str:
    return "(" + ", ".join("?" if size is None else str(size) for size in dims) + ")"
