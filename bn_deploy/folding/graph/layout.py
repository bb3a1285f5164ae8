"""Which axes of a tensor become which when it is reshaped, as far as the known sizes show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bn_deploy.folding.outcome import Refusal

Dims = tuple["int | str | None", ...]
"""Sizes of a tensor: a number, a name that stands for the same number everywhere, or None for unknown."""


@dataclass(frozen=True)
class Run:
    """Neighbouring axes before and after a reshape that hold the same elements in the same order.

    Attributes:
        before, after: the axes.
        exact: every size is a known number.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    exact: bool

    @property
    def one_to_one(self) -> bool:
        """Whether it is a single axis on both sides."""
        return len(self.before) == len(self.after) == 1


def runs(before: Dims, after: Dims) -> list[Run]:
    """Splits a row-major reshape into independent runs: from the left, from the right, and what is between.

    A row-major reshape keeps the order of elements. So where the leading sizes have equal products, the
    leading axes hold the same elements; likewise from the right. What remains between holds the same elements
    too, since the totals are equal.

    Raises:
        Refusal: a size is zero, where products say nothing.
    """
    if 0 in before or 0 in after:
        raise Refusal("a tensor before it is empty")
    left = _from_left(before, after)
    used_before = sum(b for b, _, _ in left)
    used_after = sum(a for _, a, _ in left)
    right = _from_left(before[used_before:][::-1], after[used_after:][::-1])[::-1]
    between_before = len(before) - used_before - sum(b for b, _, _ in right)
    between_after = len(after) - used_after - sum(a for _, a, _ in right)
    counts = [*left]
    if between_before or between_after:
        counts.append((between_before, between_after, False))
    counts += right
    found, i, j = [], 0, 0
    for b, a, exact in counts:
        found.append(Run(tuple(range(i, i + b)), tuple(range(j, j + a)), exact))
        i, j = i + b, j + a
    return found


def _from_left(before: Dims, after: Dims) -> list[tuple[int, int, bool]]:
    """The shortest runs from the left, as (axes before, axes after, whether every size is a number)."""
    found: list[tuple[int, int, bool]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        run = _first(before[i:], after[j:])
        if run is None:
            break
        found.append(run)
        i, j = i + run[0], j + run[1]
    return found


def _first(before: Dims, after: Dims) -> tuple[int, int, bool] | None:
    """The first run, if the sizes show one."""
    heads = before[:1], after[:1]
    if isinstance(before[0] if before else None, str) and heads[0] == heads[1]:
        return 1, 1, False
    if heads[0] == (1,) and heads[1] != (1,):
        return 1, 0, True
    if heads[1] == (1,) and heads[0] != (1,):
        return 0, 1, True
    if not before or not after:
        return None
    i = j = 1
    left, right = before[0], after[0]
    while isinstance(left, int) and isinstance(right, int):
        if left == right:
            return i, j, True
        if left < right:
            left, i = _grow(left, before, i)
        else:
            right, j = _grow(right, after, j)
    return None


def _grow(product: int, dims: Sequence[int | str | None], count: int) -> tuple[int | None, int]:
    """`product` times the next size, or None if that is not known."""
    size = dims[count] if count < len(dims) else None
    return (product * size if isinstance(size, int) else None), count + 1
