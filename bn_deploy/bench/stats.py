"""What a sample can say about a percentile: the figure, an interval for it, or nothing.

Samples are never averaged, trimmed or dropped. No distribution is assumed: ranks and the binomial
distribution are all that is used. The calls are taken for independent; calls in a row are not quite, so the
true interval is somewhat wider. How much two processes differ is for `intervals`, not for this file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import InputError

PERCENTILES: tuple[int, ...] = (50, 90, 95, 99)

FENCE = 3.0
"""Interquartile ranges from the nearer quartile beyond which a sample is an outlier: Tukey's outer fences
("far out", Exploratory Data Analysis, 1977), which criterion.rs calls severe. Counted, never dropped."""


@cache
def required_samples(percentile: int, confidence: int = 99, over_latency: int = 1) -> int:
    """The smallest sample that supports a statement about a percentile of independent calls.

    Of n calls, `over_latency` took longer than some bound. If that few would be unlikely with the true
    percentile above the bound, then the bound holds:

        P(Binomial(n, 1 - percentile) <= over_latency) <= 1 - confidence

    Source: MLPerf inference rules, appendix on early stopping, tolerance 0. Their estimate needs one
    over-latency call, because the slowest call is itself the bound: 64 samples for the 90th percentile, 130
    for the 95th and 662 for the 99th. With none it would be 44, 90 and 459.

    Args:
        percentile: in per cent, 1 to 99.
        confidence: in per cent, 1 to 99.
        over_latency: calls that are allowed above the bound.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (1 <= percentile <= 99 and 1 <= confidence <= 99 and over_latency >= 0):
        raise ValueError(f"no such statement: p{percentile} at {confidence} %, {over_latency} above")
    below, above = percentile, 100 - percentile
    n = over_latency + 1
    # Both sides times 100 ** (n + 1): integers, so that no rounding moves the answer by one.
    while (
        100 * sum(math.comb(n, k) * above**k * below ** (n - k) for k in range(over_latency + 1))
        > (100 - confidence) * 100**n
    ):
        n += 1
    return n


@dataclass(frozen=True)
class Quantile:
    """A percentile with an interval that holds it with 95 % confidence, whatever the distribution.

    Attributes:
        value_s: the nearest rank (Hyndman and Fan's type 1): the smallest sample that at least so many per
            cent of the samples do not exceed. It was measured; none is interpolated.
        low_s, high_s: the samples at the ranks of `ranks`.
    """

    value_s: float
    low_s: float
    high_s: float


def quantile(ascending: NDArray[np.float64], percentile: int) -> Quantile | None:
    """A percentile, or None where there are too few samples for one (see `required_samples`).

    Args:
        ascending: (n,) the samples, sorted.
        percentile: in per cent; the median is told of however few samples there are, its interval then being
            from the smallest to the largest.
    """
    count = len(ascending)
    if percentile != 50 and count < required_samples(percentile):
        return None
    low, high = ranks(count, percentile)
    value = ascending[-(-count * percentile // 100) - 1]  # the rank is rounded up, in integers
    return Quantile(float(value), float(ascending[low - 1]), float(ascending[high - 1]))


@cache
def ranks(count: int, percentile: int, confidence: float = 0.95) -> tuple[int, int]:
    """The ranks, from 1, of the two samples between which a percentile lies.

    The number of samples below the percentile is binomial. The ranks are the innermost ones that leave at
    most half of 1 - confidence on either side; where there is none, the outermost sample is taken.

    Source: David and Nagaraja, Order Statistics, section 7.1.
    """
    share, tail = percentile / 100, (1 - confidence) / 2
    successes = np.arange(count + 1)
    logs = _log_factorials(count)
    below = np.cumsum(
        np.exp(
            logs[count]
            - logs[successes]
            - logs[count - successes]
            + successes * math.log(share)
            + (count - successes) * math.log1p(-share)
        )
    )
    # P(X <= rank - 1) <= tail for the lower rank; P(X >= rank) = 1 - P(X <= rank - 1) <= tail for the upper.
    low = int(np.searchsorted(below, tail, side="right"))
    high = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    return max(low, 1), min(high, count)


def _log_factorials(count: int) -> NDArray[np.float64]:
    """The logarithms of 0! to count!."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])


def outliers(ascending: NDArray[np.float64]) -> int:
    """How many samples lie beyond FENCE; they stay in every figure.

    Raises:
        InputError: there is no sample.
    """
    count = len(ascending)
    if not count:
        raise InputError("no sample, no outlier")
    first, third = (ascending[-(-count * quarter // 4) - 1] for quarter in (1, 3))
    reach = FENCE * (third - first)
    return int(((ascending < first - reach) | (ascending > third + reach)).sum())


def block_medians(samples_s: NDArray[np.float64], blocks: Sequence[int]) -> NDArray[np.float64]:
    """The median call of each block, in the order of the blocks.

    Args:
        samples_s: (n,) the calls, block after block.
        blocks: how many calls each has; n together.
    """
    return np.array([np.median(part) for part in np.split(samples_s, np.cumsum(blocks)[:-1])])
