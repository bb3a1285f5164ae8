"""How many labels an error can flip, from measured errors and margins: the budget where proofs say nothing.

An image can change its label only if the error of the difference of two of its logits reaches its margin, the
distance of its two largest logits in float64. Errors and margins are counted in bins, eight to an octave, so
that a million images take no more memory than ten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from bn_deploy.backends.base import Array

_PER_OCTAVE = 8
_LOWEST, _HIGHEST = -64, 64  # octaves; whatever is beyond counts as these
_BINS = (_HIGHEST - _LOWEST) * _PER_OCTAVE
_Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class Budget:
    """How many labels a form may flip.

    Attributes:
        expected: flips among the images if an image's error does not depend on its margin.
        low, high: its 95 % interval.
        observed: flips that were seen.
    """

    expected: float
    low: float
    high: float
    observed: int


@dataclass
class BudgetTally:
    """Counts the errors and margins of a stream of images."""

    images: int = 0
    observed: int = 0
    errors: Array = field(default_factory=lambda: np.zeros(_BINS + 1, np.int64))
    margins: Array = field(default_factory=lambda: np.zeros(_BINS + 1, np.int64))

    def add(self, exact: Array, logits: Array) -> Array:
        """Takes in the logits (n, classes) of float64 and of a form; returns which labels differ, (n,)."""
        rows = np.arange(len(exact))
        top = exact.argmax(axis=1)
        with np.errstate(invalid="ignore", over="ignore"):
            shift = logits.astype(np.float64) - exact
            error = np.abs(shift[rows, top][:, None] - shift).max(axis=1)
        finite = np.isfinite(logits).all(axis=1)
        flipped = np.asarray((logits.argmax(axis=1) != top) | ~finite)
        # Errors are rounded up and margins down, so that the budget errs towards more flips.
        np.add.at(self.errors, np.where(finite, _bin(error) + 1, _BINS), 1)
        np.add.at(self.margins, _bin(margins(exact)), 1)
        self.images += len(exact)
        self.observed += int(flipped.sum())
        return flipped

    def result(self) -> Budget:
        """The budget of all images so far."""
        reached = self.errors[::-1].cumsum()[::-1] / self.images  # share of errors in a bin or above
        expected = float((self.margins * reached).sum())
        low, high = wilson(expected, self.images)
        return Budget(expected, low, high, self.observed)


def margins(exact: Array) -> Array:
    """The distance of the two largest of each row's logits, (n, classes) -> (n,); infinite for one class."""
    if exact.shape[1] < 2:
        return np.full(len(exact), np.inf)
    best = np.partition(exact, -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def wilson(count: float, total: int) -> tuple[float, float]:
    """The 95 % interval of Wilson (1927) for `count` of `total`, as counts.

    The budget averages over all pairs of an error and a margin. Its variance is at most that of a share of
    `total` independent images (Hoeffding's decomposition), so that the interval is rather too wide.
    """
    share = count / total
    middle = share + _Z**2 / (2 * total)
    half = _Z * math.sqrt(share * (1 - share) / total + _Z**2 / (4 * total**2))
    scale = total / (1 + _Z**2 / total)
    # Rounding must not take the count itself out of its interval.
    return min(count, max(0.0, (middle - half) * scale)), max(count, min(total, (middle + half) * scale))


def _bin(value: Array) -> Array:
    """The bin of each number: the largest one whose lower edge is not above it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        octave = np.nan_to_num(np.log2(value), nan=_HIGHEST, posinf=_HIGHEST, neginf=_LOWEST)
    place = np.floor((np.clip(octave, _LOWEST, _HIGHEST) - _LOWEST) * _PER_OCTAVE)
    return np.asarray(np.minimum(place, _BINS - 1), np.int64)
