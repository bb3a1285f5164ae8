"""A per-channel affine map: what every batch norm is once it is in eval mode. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """y[c] = scale[c] * x[c] + shift[c], in float64.

    Attributes:
        scale: (C,) finite.
        shift: (C,) finite.

    Raises:
        ValueError: the two are not vectors of one length, or hold NaN or infinity.
    """

    scale: Vector
    shift: Vector

    def __post_init__(self) -> None:
        for name in ("scale", "shift"):
            vector = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            if vector.ndim != 1 or vector.size == 0:
                raise ValueError(f"{name} must be a non-empty vector, not of shape {vector.shape}")
            if not np.isfinite(vector).all():
                raise ValueError(f"{name} is not finite")
            object.__setattr__(self, name, vector)
        if self.scale.shape != self.shift.shape:
            raise ValueError(f"{self.scale.size} scales but {self.shift.size} shifts")

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return int(self.scale.size)

    @classmethod
    def identity(cls, channels: int) -> Affine:
        """The map that changes nothing."""
        return cls(np.ones(channels), np.zeros(channels))

    def then(self, after: Affine) -> Affine:
        """The one map that does `self` first and `after` second (law 4).

        after(self(x)) = after.scale * (scale * x + shift) + after.shift.

        Raises:
            ValueError: the channel counts differ.
        """
        if self.channels != after.channels:
            raise ValueError(f"{self.channels} channels cannot be followed by {after.channels}")
        return Affine(after.scale * self.scale, after.scale * self.shift + after.shift)

    def __call__(self, x: NDArray[np.float64], axis: int = 1) -> NDArray[np.float64]:
        """Applies the map along `axis` of x (..., C, ...)."""
        shape = [1] * x.ndim
        shape[axis] = self.channels
        result: NDArray[np.float64] = x * self.scale.reshape(shape) + self.shift.reshape(shape)
        return result
