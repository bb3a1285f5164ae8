"""Intervals for what a handful of processes say about one number, exact for any distribution.

The unit of replication is the process: where its memory lies moves a ratio by per cents, and no number of
calls in one process can average that out. There are few processes, so what holds for large samples does not
hold here: the bootstrap's percentile interval of the median of 7 values is the second smallest to the second
largest of them, which covers in 87.5 % of the cases and not in 95.

Taken instead are ranks, whose level is exact for any distribution. For pairs, the order statistics of the
values themselves (the sign test): with 9 processes the second smallest to the second largest, 96.1 %, so that
one process that fared badly does not take the verdict away. Signed ranks and Student's t give narrower
intervals when nothing disturbs, and lose every verdict to such a process. For two measurements on different
days, the rank sum (Mann and Whitney). Hollander and Wolfe, Nonparametric Statistical Methods, sections 3.6
and 4.3. `tools/bench_selftest.py` compares these intervals on real processes.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

FEWEST = 6
"""Values below which there is no interval at 95 %: all of five agree by chance in 2 of 32 cases."""

Values = NDArray[np.float64]


def paired(values: Values) -> tuple[float, float] | None:
    """The interval of the median of a distribution; None with fewer than FEWEST values.

    Args:
        values: (n,) one from each process.
    """
    return _between(values, _heads(len(values)))


def unpaired(before: Values, after: Values) -> tuple[float, float] | None:
    """The interval of the shift from one distribution to the other; None if there are too few values.

    Args:
        before: (m,) one from each process.
        after: (n,) likewise.
    """
    return _between((after[:, None] - before[None, :]).ravel(), _rank_sums(len(before), len(after)))


def _between(values: Values, chances: tuple[float, ...]) -> tuple[float, float] | None:
    """The k-th smallest and k-th largest value, k as large as the confidence allows.

    Args:
        values: those, or those differences, whose number on one side of the truth is the statistic.
        chances: the distribution of that statistic, from 0 on.
    """
    below = np.cumsum(chances)
    k = int(np.searchsorted(below, (1 - CONFIDENCE) / 2, side="right"))
    if k < 1:
        return None
    ascending = np.sort(values)
    return float(ascending[k - 1]), float(ascending[-k])


def _heads(count: int) -> tuple[float, ...]:
    """P(k of `count` values lie below the median) for k = 0 .. count."""
    return tuple(math.comb(count, k) / 2**count for k in range(count + 1))


@cache
def _rank_sums(m: int, n: int) -> tuple[float, ...]:
    """P(U = u) for u = 0 .. m n, where U counts the pairs in which the one of m exceeds the one of n."""
    if m == 0 or n == 0:
        return (1.0,)
    # The largest of all is one of the m, above all n, or one of the n.
    chances = np.zeros(m * n + 1)
    with_m, with_n = _rank_sums(m - 1, n), _rank_sums(m, n - 1)
    chances[n : n + len(with_m)] += np.array(with_m) * m / (m + n)
    chances[: len(with_n)] += np.array(with_n) * n / (m + n)
    return tuple(chances)
