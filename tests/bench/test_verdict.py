from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bn_deploy.bench.rows import LatencyResult
from bn_deploy.bench.verdict import (
    INDIFFERENCE,
    Ratio,
    Verdict,
    best_batches,
    between,
    floor,
    log_ratios,
    noise,
    offline,
    since,
    told,
)
from tests.bench.make import of_processes, result, run

QUIET = [100.0, 101.0, 99.0, 100.5, 99.5, 100.2, 99.8]


def times(factor: float, **changes: Any) -> LatencyResult:
    return of_processes([one * factor for one in QUIET], seed=1, **changes)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.90, 0.97, Verdict.FASTER),
        (0.90, 0.99, Verdict.UNDECIDED),
        (0.985, 1.015, Verdict.SAME),
        (0.95, 1.05, Verdict.UNDECIDED),
        (1.01, 1.09, Verdict.UNDECIDED),
        (1.03, 1.09, Verdict.SLOWER),
        (None, None, None),
    ],
)
def test_the_verdict_is_read_off_the_interval(
    low: float | None, high: float | None, verdict: Verdict | None
) -> None:
    assert Ratio(1.0, low, high, 7).verdict() is verdict


def test_the_floor_is_as_wide_for_slower_as_for_faster() -> None:
    for edge in (1.015, 1 / 1.015):
        assert Ratio(1.0, edge, edge, 7).verdict(0.016) is Verdict.SAME
        assert Ratio(1.0, edge, edge, 7).verdict(0.014) in (Verdict.FASTER, Verdict.SLOWER)


def test_noise_makes_nothing_the_same() -> None:
    assert Ratio(1.0, 0.95, 1.10, 7).verdict(0.17) is Verdict.UNDECIDED
    assert Ratio(1.0, 0.99, 1.01, 7).verdict(0.17) is Verdict.SAME
    assert Ratio(1.0, 1.05, 1.10, 7).verdict(0.17) is Verdict.UNDECIDED


def test_a_ratio_is_the_time_after_over_the_time_before() -> None:
    slower = between(times(1.0), times(1.25))
    assert slower.value == pytest.approx(1.25, rel=0.01)
    assert slower.verdict() is Verdict.SLOWER
    assert between(times(1.25), times(1.0)).verdict() is Verdict.FASTER
    assert since(times(1.0), times(1.25)).verdict() is Verdict.SLOWER
    assert since(times(1.25), times(1.0)).verdict() is Verdict.FASTER


def test_five_per_cent_are_found_and_none_are_none() -> None:
    assert between(times(1.0), times(1.05)).verdict() is Verdict.SLOWER
    assert between(times(1.0), times(1.0)).verdict() is Verdict.SAME


def test_processes_that_disagree_decide_nothing_however_many_calls_they_have() -> None:
    # Each process is sure of its own ratio to a tenth of a per cent; their ratios range from 0.95 to 1.15.
    before = of_processes([100] * 7, calls=4000)
    after = of_processes([95, 97, 104, 106, 108, 112, 115], calls=4000, seed=1)
    ratio = between(before, after)
    assert ratio.value == pytest.approx(1.06, rel=0.01)
    assert ratio.processes == 7
    assert ratio.verdict() is Verdict.UNDECIDED


def test_few_processes_give_a_ratio_and_no_verdict() -> None:
    ratio = between(of_processes([100] * 5), of_processes([200] * 5))
    assert ratio.value == pytest.approx(2.0, rel=0.01)
    assert (ratio.low, ratio.high, ratio.verdict()) == (None, None, None)


def test_a_disturbance_that_lasts_for_a_round_cancels_out() -> None:
    slow_round = [1000] * 10 + [5000] * 10 + [1000] * 10
    before = result([run(slow_round, p, blocks=(10, 10, 10)) for p in range(7)])
    after = result([run([round(s * 1.1) for s in slow_round], p, blocks=(10, 10, 10)) for p in range(7)])
    assert np.exp(log_ratios(before, after)) == pytest.approx([1.1] * 7)
    # The medians over rounds of each alone would be blind to which round was slow.
    shifted = result([run([5500] * 10 + [1100] * 20, p, blocks=(10, 10, 10)) for p in range(7)])
    assert np.exp(log_ratios(before, shifted)) == pytest.approx([1.1] * 7)


def test_blocks_are_paired_round_by_round() -> None:
    before, after = (
        result([run([n for n in blocks for _ in range(4)], p, blocks=(4, 4, 4)) for p in range(7)])
        for blocks in ((1000, 2000, 3000), (1500, 2200, 9000))
    )
    assert np.exp(log_ratios(before, after)) == pytest.approx([1.5] * 7), "of 1.5, 1.1 and 3"


def test_only_processes_that_timed_both_are_paired() -> None:
    before = result([run([1000], p) for p in range(7)])
    after = result([run([2000], p) for p in range(3, 9)])
    assert len(log_ratios(before, after)) == 4


def test_requests_that_were_given_up_decide_nothing() -> None:
    overloaded = result([run([100] * 20, p, unserved=5) for p in range(7)])
    assert between(times(1.0, batch=8), overloaded).verdict() is None


def test_noise_is_the_network_against_itself_and_raises_the_floor() -> None:
    rows = [times(1.0), times(1.06, again=True), times(1.1, model="other")]
    (seen,) = noise(rows)
    assert (seen.before, seen.after) == ("ort folded", "ort folded again")
    assert floor(rows, 8, "end_to_end") == pytest.approx(0.06, abs=0.003)
    assert floor(rows[:1], 8, "end_to_end") == INDIFFERENCE
    assert floor([*rows[:1], times(1 / 1.06, again=True)], 8, "end_to_end") == pytest.approx(0.06, abs=0.003)
    (comparison,) = told(rows, "single")
    assert comparison.floor == floor(rows, 8, "end_to_end")


def test_the_noise_of_one_batch_size_says_nothing_of_another() -> None:
    rows = [times(1.0), times(1.3, again=True), times(1.0, batch=64), times(1.0, batch=64, again=True)]
    assert floor(rows, 64, "end_to_end") == INDIFFERENCE


def test_what_is_compared() -> None:
    rows = [
        *(times(1.0, model=model) for model in ("custom", "native", "folded")),
        times(1.0, again=True),
        *(times(1.0, model=model, backend="torch") for model in ("native", "folded")),
        times(1.0, batch=64),
    ]
    assert [(c.before, c.after) for c in told(rows, "single")] == [
        ("ort custom", "ort native"),
        ("ort custom", "ort folded"),
        ("ort native", "ort folded"),
        ("torch native", "torch folded"),
        ("ort folded", "torch folded"),
    ]


def test_offline_compares_each_at_its_best_batch() -> None:
    rows = [
        times(1.0, model="native", batch=8),
        times(9.0, model="native", batch=64),
        times(2.0, batch=8),
        times(4.0, batch=64),
    ]
    assert [(row.model, row.batch) for row in best_batches(rows)] == [("native", 8), ("folded", 64)]
    (comparison,) = told(rows, "offline")
    assert comparison.ratio.value == pytest.approx((4.0 / 64) / (1.0 / 8), rel=0.01)
    assert offline(rows[0], rows[3]).verdict() is Verdict.FASTER


def test_offline_counts_slow_calls() -> None:
    even = result([run([1000] * 100, p) for p in range(7)])
    stalling = result([run([900] * 99 + [100_000], p) for p in range(7)])
    assert between(even, stalling).verdict() is Verdict.FASTER
    assert offline(even, stalling).verdict() is Verdict.SLOWER
