"""Convolution kernels as plain arrays, and when one can be written in the place of another. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_deploy.batchnorm.affine import Affine, Vector
from bn_deploy.folding.absorb import Weights
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True, eq=False)
class Kernel:
    """A convolution over any number of axes; over none it is a linear layer.

    Attributes:
        weight: (out, in / groups, ...) with the size of the kernel along each axis.
        bias: (out,).
        groups: how many groups the channels fall into.
        strides, dilations: one number per axis.
        pads: the zeros before each axis, then those after each axis.
    """

    weight: Weights
    bias: Vector
    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @classmethod
    def pointwise(cls, affine: Affine, axes: int) -> Kernel:
        """A per-channel map as a convolution over `axes` axes that sees one position of one channel."""
        weight = affine.scale.reshape(-1, 1, *[1] * axes)
        return cls(weight, affine.shift, affine.channels, (1,) * axes, (1,) * axes, (0,) * 2 * axes)

    @property
    def inputs(self) -> int:
        """The number of channels that go in."""
        return int(self.weight.shape[1]) * self.groups

    @property
    def outputs(self) -> int:
        """The number of channels that come out."""
        return int(self.weight.shape[0])

    def within(self, other: Kernel) -> Weights:
        """The weight with which `other` computes what `self` does, but for the bias.

        Along an axis, output o sees at tap j the input at o * stride - begin + j * dilation, or zero where
        there is none. So tap j of `self` sees what tap (other.begin - begin + j * dilation) / other.dilation
        of `other` sees, and both have the same outputs if the strides agree and begin + end - dilation *
        (size - 1), by which padding exceeds what the kernel takes off. Taps that only `other` has are zero,
        as are inputs that only its groups see.

        Raises:
            Refusal: `other` lacks a tap or an input, or has other outputs.
        """
        mine, theirs = (self.inputs, self.outputs), (other.inputs, other.outputs)
        if mine != theirs:
            raise Refusal(f"it takes {mine[0]} channels to {mine[1]}, the other {theirs[0]} to {theirs[1]}")
        if self.groups % other.groups:
            raise Refusal(f"it has {self.groups} groups, the other {other.groups}")
        if self.strides != other.strides:
            raise Refusal(f"it has strides {self.strides}, the other {other.strides}")
        # Its groups are parts of the other's: the first input that output o sees, counted in either way.
        output = np.arange(self.outputs)
        first = [
            output // (self.outputs // kernel.groups) * kernel.weight.shape[1] for kernel in (self, other)
        ]
        inputs = (first[0] - first[1])[:, None] + np.arange(self.weight.shape[1])
        whole = np.zeros(other.weight.shape)
        part = whole[self._taps(other)]
        part[output[:, None], inputs] = self.weight
        return whole

    def _taps(self, other: Kernel) -> tuple[slice, ...]:
        """Where the weight of `other` has the taps of `self`."""
        axes, found = len(self.strides), [slice(None), slice(None)]
        for axis, (size, whole) in enumerate(zip(self.weight.shape[2:], other.weight.shape[2:], strict=True)):
            step, grid = self.dilations[axis], other.dilations[axis]
            excess = self.pads[axis] + self.pads[axis + axes] - step * (size - 1)
            if excess != other.pads[axis] + other.pads[axis + axes] - grid * (whole - 1):
                raise Refusal(f"along axis {axis + 2} it has another number of outputs")
            first = other.pads[axis] - self.pads[axis]
            last = first + step * (size - 1)
            on_grid = first % grid == 0 and (size == 1 or step % grid == 0)
            if not on_grid or first < 0 or last > grid * (whole - 1):
                raise Refusal(f"along axis {axis + 2} the other does not see all that it sees")
            found.append(slice(first // grid, last // grid + 1, max(1, step // grid)))
        return tuple(found)
