from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_deploy.bench.stats import FENCE, block_medians, outliers, quantile, ranks, required_samples
from bn_deploy.errors import InputError


# From the published rules; LoadGen's constants are the second column.
@pytest.mark.parametrize(
    ("percentile", "none_above", "one_above"), [(50, 7, 11), (90, 44, 64), (95, 90, 130), (99, 459, 662)]
)
def test_required_samples_are_those_of_mlperf(percentile: int, none_above: int, one_above: int) -> None:
    assert required_samples(percentile, 99, over_latency=0) == none_above
    assert required_samples(percentile) == one_above


def test_required_samples_can_be_very_few() -> None:
    assert required_samples(1, 90) == 2, "1 - 0.99 ** 2 is about 2 %"


def test_required_samples_grow_with_the_confidence() -> None:
    assert required_samples(90, 90) < required_samples(90, 95) < required_samples(90, 99)


@pytest.mark.parametrize("arguments", [(0,), (100,), (90, 0), (90, 100), (90, 99, -1)])
def test_required_samples_refuses_what_no_sample_can_show(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no such statement"):
        required_samples(*arguments)


@pytest.mark.parametrize(
    ("count", "p50", "p90", "p95", "p99"),
    [
        (1, 1, None, None, None),
        (2, 1, None, None, None),
        (3, 2, None, None, None),
        (63, 32, None, None, None),
        (64, 32, 58, None, None),
        (129, 65, 117, None, None),
        (130, 65, 117, 124, None),
        (661, 331, 595, 628, None),
        (662, 331, 596, 629, 656),
        (1000, 500, 900, 950, 990),
    ],
)
def test_percentiles_are_measured_samples_or_absent(
    count: int, p50: int, p90: int | None, p95: int | None, p99: int | None
) -> None:
    # Squares, so that a value between two samples would be no sample.
    ascending = np.arange(1, count + 1, dtype=np.float64) ** 2
    found = [quantile(ascending, percentile) for percentile in (50, 90, 95, 99)]
    assert [None if one is None else one.value_s for one in found] == [
        None if rank is None else rank**2 for rank in (p50, p90, p95, p99)
    ]


# Computed once with exact binomial sums.
@pytest.mark.parametrize(
    ("count", "percentile", "low", "high"),
    [
        (1000, 50, 469, 532),
        (1000, 90, 881, 919),
        (1000, 99, 983, 997),
        (10_000, 50, 4902, 5099),
        (10_000, 90, 8941, 9059),
        (10_000, 99, 9880, 9920),
    ],
)
def test_the_ranks_are_those_of_the_binomial_distribution(
    count: int, percentile: int, low: int, high: int
) -> None:
    assert ranks(count, percentile) == (low, high)


def test_few_samples_give_the_widest_interval() -> None:
    assert ranks(3, 50) == (1, 3)
    assert ranks(1, 50) == (1, 1)


Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


@pytest.mark.parametrize(
    ("draw", "inverse"),
    [
        (lambda g, n: g.lognormal(0.0, 1.0, n), {50: 1.0, 90: 3.60222, 99: 10.24047}),
        (lambda g, n: g.pareto(1.2, n) + 1, {50: 2 ** (1 / 1.2), 90: 10 ** (1 / 1.2), 99: 100 ** (1 / 1.2)}),
    ],
    ids=["lognormal", "pareto"],
)
@pytest.mark.parametrize("percentile", [50, 90, 99])
def test_the_intervals_cover_heavy_tails(draw: Draw, inverse: dict[int, float], percentile: int) -> None:
    generator = np.random.default_rng(11)
    trials, covered = 600, 0
    for _ in range(trials):
        found = quantile(np.sort(draw(generator, 700)), percentile)
        assert found is not None
        covered += found.low_s <= inverse[percentile] <= found.high_s
    # 95 % or a little more, because ranks are whole; 600 trials show it to within 2 points.
    assert 0.93 <= covered / trials <= 0.985


def test_outliers_are_counted_and_stay() -> None:
    ascending = np.array([1.0] * 50 + [2.0] * 50 + [5.0, 5.01, 90.0])
    assert FENCE == 3
    assert outliers(ascending) == 2, "5.0 lies on the fence 2 + 3 * 1"
    found = quantile(np.sort(np.append(np.ones(57), [90.0] * 7)), 90)
    assert found is not None
    assert found.value_s == 90.0


def test_a_sample_far_below_is_an_outlier_too() -> None:
    assert outliers(np.array([0.1, *[10.0] * 50, *[11.0] * 50])) == 1


def test_no_sample_has_no_outliers() -> None:
    with pytest.raises(InputError, match="no sample"):
        outliers(np.array([]))


def test_block_medians_are_one_a_block() -> None:
    samples = np.array([1.0, 2.0, 9.0, 4.0, 6.0])
    assert list(block_medians(samples, (3, 2))) == [2.0, 5.0]
