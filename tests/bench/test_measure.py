from __future__ import annotations

import gc
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bn_deploy.backends.base import Feeds
from bn_deploy.bench.measure import BLOCK_CALLS, Candidate, MeasureOptions, measure
from bn_deploy.bench.stats import LatencyResult, required_samples
from bn_deploy.errors import InputError
from bn_deploy.spec import T, silent
from tests.fakes import FakeClock, FakeRunner

ALL_VERBS_S = {"load": 0.000_1, "enqueue": 0.001, "synchronize": 0.01, "fetch": 0.1}


def feeds(batch: int) -> Feeds:
    return {"image": np.ones((batch, 4), np.float32)}


def options(**changes: Any) -> MeasureOptions:
    values: dict[str, Any] = {
        "batch_sizes": (1,),
        "warmup_s": 0.0,
        "target_samples": 100,
        "budget_s": 1e9,
        "seed": 7,
    }
    return MeasureOptions(**{**values, **changes})


def timed(runners: Sequence[FakeRunner], clock: FakeClock, options: MeasureOptions) -> list[LatencyResult]:
    candidates = [Candidate(f"model {position}", runner, 1) for position, runner in enumerate(runners)]
    return measure(candidates, feeds, options, track=silent, clock=clock)


def blocks(turns: Sequence[str]) -> list[tuple[str, int]]:
    """Who was called how often in a row."""
    return [(who, len(list(calls))) for who, calls in itertools.groupby(turns)]


class Logged(FakeRunner):
    """Tells a list shared by several runners that it was called, and takes `pattern` seconds in turn."""

    def __init__(self, clock: FakeClock, turns: list[str], name: str, *pattern: float) -> None:
        super().__init__(clock, backend=name)
        self.turns = turns
        self.pattern = itertools.cycle(pattern)

    def enqueue(self) -> None:
        super().enqueue()
        self.turns.append(self.backend)
        self.clock.advance(next(self.pattern))


@pytest.mark.parametrize(("scope", "seconds"), [("compute", 0.011), ("end_to_end", 0.111_1)])
def test_a_scope_times_its_verbs_and_no_other(scope: str, seconds: float) -> None:
    clock = FakeClock()
    (row,) = timed([FakeRunner(clock, ALL_VERBS_S)], clock, options(scopes=(scope,)))
    assert row.scope == scope
    assert row.samples_s == (seconds,) * 100


@pytest.mark.parametrize(
    ("scope", "verbs"),
    [
        ("compute", ["load", "load", *["enqueue", "synchronize"] * 13]),
        ("end_to_end", ["load", *["load", "enqueue", "synchronize", "fetch"] * 13]),
    ],
)
def test_a_scope_calls_its_verbs_and_no_other(scope: str, verbs: list[str]) -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, ALL_VERBS_S)
    (row,) = timed([runner], clock, options(scopes=(scope,), target_samples=10))
    # The first load asks whether the batch size fits; then three calls of warm-up and one block of ten.
    assert runner.verbs == verbs
    assert row.warmup_calls == 3


def test_every_call_is_one_sample_in_order_and_outliers_stay() -> None:
    clock = FakeClock()
    pattern = (*[0.001] * 9, 5.0, 0.002)
    (row,) = timed([Logged(clock, [], "a", *pattern)], clock, options(target_samples=40))
    after_warm_up = itertools.islice(itertools.cycle(pattern), 3, 43)
    assert row.samples_s == tuple(after_warm_up)
    assert row.samples_s.count(5.0) == 4


def test_samples_beyond_the_target_are_kept() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, {"enqueue": 0.000_03})
    (row,) = timed([runner], clock, options(target_samples=700))
    assert len(row.samples_s) > 700
    assert runner.verbs.count("enqueue") == row.warmup_calls + len(row.samples_s)


def test_samples_are_whole_nanoseconds() -> None:
    clock = FakeClock()
    (row,) = timed([FakeRunner(clock, {"enqueue": 0.001_000_000_3})], clock, options())
    assert set(row.samples_s) == {0.001}


def test_results_carry_what_the_runner_says_of_itself() -> None:
    clock = FakeClock()
    (row,) = timed([FakeRunner(clock, ALL_VERBS_S, backend="ort")], clock, options())
    assert (row.model, row.backend, row.provider, row.device, row.precision.value, row.threads) == (
        "model 0",
        "ort",
        "FakeProvider",
        "fake device",
        "fp32",
        1,
    )


def test_rows_come_by_batch_then_scope_then_candidate() -> None:
    clock = FakeClock()
    runners = [FakeRunner(clock, ALL_VERBS_S, backend=name) for name in "ab"]
    rows = timed(runners, clock, options(batch_sizes=(8, 1), scopes=("end_to_end", "compute")))
    assert [(row.batch, row.scope, row.backend) for row in rows] == [
        *[(8, "end_to_end", "a"), (8, "end_to_end", "b"), (8, "compute", "a"), (8, "compute", "b")],
        *[(1, "end_to_end", "a"), (1, "end_to_end", "b"), (1, "compute", "a"), (1, "compute", "b")],
    ]


def test_a_batch_size_is_really_fed() -> None:
    seen: list[int] = []

    class Seeing(FakeRunner):
        def fetch(self) -> dict[str, Any]:
            out = super().fetch()
            seen.append(len(out["logits"]))
            return out

    clock = FakeClock()
    timed([Seeing(clock, ALL_VERBS_S)], clock, options(batch_sizes=(1, 8), target_samples=10))
    assert seen == [1] * 13 + [8] * 13


def test_a_block_has_at_least_ten_calls_and_two_milliseconds() -> None:
    clock = FakeClock()
    turns: list[str] = []
    slow, fast = Logged(clock, turns, "slow", 0.002), Logged(clock, turns, "fast", 0.000_1)
    timed([slow, fast], clock, options(target_samples=100))
    assert blocks(turns[:6]) == [("slow", 3), ("fast", 3)], "warm-up"
    counts = dict.fromkeys(("slow", "fast"), 0)
    for who, calls in blocks(turns[6:]):  # equal neighbours merge, hence multiples
        whole, rest = divmod(calls, {"slow": 10, "fast": 20}[who])
        # 20 times 0.1 ms may add up to a hair less than 2 ms, and then a block takes one call more.
        assert rest <= (whole if who == "fast" else 0)
        counts[who] += whole
    assert counts == {"slow": 10, "fast": 10}


def first_in_round(seed: int, rounds: int = 60) -> list[str]:
    clock = FakeClock()
    turns: list[str] = []
    runners = [Logged(clock, turns, name, 0.001) for name in "abc"]
    timed(runners, clock, options(target_samples=rounds * BLOCK_CALLS, seed=seed))
    order = turns[9:][::BLOCK_CALLS]
    in_rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert len(in_rounds) == rounds
    assert all(sorted(each) == ["a", "b", "c"] for each in in_rounds), "one block each in every round"
    return [each[0] for each in in_rounds]


def test_candidates_alternate_and_each_is_first_about_as_often() -> None:
    first = first_in_round(seed=7)
    assert all(first.count(name) >= 10 for name in "abc")


def test_the_order_is_that_of_the_seed() -> None:
    assert first_in_round(seed=1) == first_in_round(seed=1)
    assert first_in_round(seed=1) != first_in_round(seed=2)


def test_a_disturbance_hits_all_candidates_alike() -> None:
    clock = FakeClock()

    class Drifting(FakeRunner):
        def synchronize(self) -> None:
            super().synchronize()
            self.clock.advance(0.001 * (1 + self.clock.now_s))

    one, other = timed([Drifting(clock), Drifting(clock)], clock, options(target_samples=400))
    assert max(one.samples_s) > 2 * min(one.samples_s), "the drift must be there"
    assert one.p50_s == pytest.approx(other.p50_s, rel=0.05)


def test_a_fast_candidate_goes_on_while_a_slow_one_needs_samples() -> None:
    clock = FakeClock()
    fast, slow = FakeRunner(clock, {"enqueue": 0.000_02}), FakeRunner(clock, {"enqueue": 0.001})
    few, many = timed([slow, fast], clock, options(target_samples=50))
    assert len(few.samples_s) == 50
    assert len(many.samples_s) >= 5 * 100, "five blocks of 2 ms"


def test_a_cell_begins_no_block_after_its_budget() -> None:
    clock = FakeClock()
    (row,) = timed([FakeRunner(clock, {"enqueue": 0.5})], clock, options(target_samples=1000, budget_s=12.0))
    assert len(row.samples_s) == 30, "10 calls take 5 s: the third block begins at 10 s and is finished"


def test_one_budget_does_not_stop_the_others() -> None:
    clock = FakeClock()
    slow, fast = FakeRunner(clock, {"enqueue": 1.0}), FakeRunner(clock, {"enqueue": 0.01})
    few, many = timed([slow, fast], clock, options(target_samples=100, budget_s=15.0))
    assert (len(few.samples_s), len(many.samples_s)) == (20, 100)


def test_even_a_call_longer_than_the_budget_is_measured() -> None:
    clock = FakeClock()
    (row,) = timed([FakeRunner(clock, {"enqueue": 9.0})], clock, options(budget_s=0.001))
    assert len(row.samples_s) == BLOCK_CALLS


def test_warm_up_is_not_in_the_samples_and_lasts_its_time() -> None:
    clock = FakeClock()
    slow_start = Logged(clock, [], "a", *[0.25] * 4, *[0.001] * 10_000)
    (row,) = timed([slow_start], clock, options(warmup_s=1.0))
    assert (row.warmup_calls, row.warmup_s) == (4, 1.0)
    assert set(row.samples_s) == {0.001}


def test_the_defaults_support_p99_and_keep_twenty_cells_near_half_a_minute() -> None:
    defaults = MeasureOptions()
    assert defaults.target_samples >= required_samples(99)
    clock = FakeClock()
    fast = timed([FakeRunner(clock, {"enqueue": 0.000_03})], clock, defaults)
    assert all(row.p99_s is not None for row in fast)
    clock = FakeClock()
    slow = timed([FakeRunner(clock, {"enqueue": 0.020_1}) for _ in range(5)], clock, defaults)
    assert all(row.p90_s is not None for row in slow)
    assert len(slow) == 20
    assert clock() < 31.0


@pytest.fixture
def _collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


class Watching(FakeRunner):
    """Notes whether the collector may run during a call; breaks at call `breaks_at`."""

    def __init__(self, clock: FakeClock, breaks_at: int | None = None) -> None:
        super().__init__(clock, {"enqueue": 0.001})
        self.collecting: list[bool] = []
        self.breaks_at = breaks_at

    def enqueue(self) -> None:
        super().enqueue()
        self.collecting.append(gc.isenabled())
        if len(self.collecting) == self.breaks_at:
            raise OSError("the device went away")


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_in_a_block_and_the_collector_is_put_back(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    clock = FakeClock()
    runner = Watching(clock)
    timed([runner], clock, options(target_samples=20))
    assert runner.collecting == [enabled] * 3 + [False] * 20, "the warm-up is left alone"
    assert gc.isenabled() is enabled


@pytest.mark.usefixtures("_collector")
def test_an_error_in_a_block_passes_and_the_collector_is_put_back() -> None:
    gc.enable()
    clock = FakeClock()
    with pytest.raises(OSError, match="went away"):
        timed([Watching(clock, breaks_at=5)], clock, options())
    assert gc.isenabled()


def test_a_refused_batch_size_is_found_before_anything_is_timed() -> None:
    clock = FakeClock()
    runners = [
        FakeRunner(clock, ALL_VERBS_S),
        FakeRunner(clock, ALL_VERBS_S, backend="trt", largest_batch=64),
    ]
    with pytest.raises(
        InputError, match=r"^model 1 on trt does not take batch size 256: batch 256 is above 64$"
    ):
        timed(runners, clock, options(batch_sizes=(1, 256)))
    assert not [verb for runner in runners for verb in runner.verbs if verb != "load"]


def test_nothing_to_time_is_refused() -> None:
    with pytest.raises(InputError, match="no candidate"):
        timed([], FakeClock(), options())


def test_track_is_told_of_each_batch_size_and_scope() -> None:
    told: list[tuple[list[Any], int]] = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        listed = list(items)
        told.append((listed, total))
        return iter(listed)

    clock = FakeClock()
    measure(
        [Candidate("folded", FakeRunner(clock, ALL_VERBS_S), None)],
        feeds,
        options(batch_sizes=(1, 8)),
        track=track,
        clock=clock,
    )
    assert told == [([(1, "end_to_end"), (8, "end_to_end")], 2)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": ()}, "batch sizes must be given"),
        ({"batch_sizes": (8, 8)}, "each once"),
        ({"batch_sizes": (0, 8)}, "at least 1, not 0"),
        ({"scopes": ()}, "scopes must be given"),
        ({"scopes": ("compute", "compute")}, "each once"),
        ({"scopes": ("all",)}, "one of compute, end_to_end, not all"),
        ({"warmup_s": -0.1}, "warm-up must be 0 s or more"),
        ({"warmup_s": math.inf}, "warm-up must be 0 s or more"),
        ({"target_samples": 0}, "number of samples"),
        ({"budget_s": 0.0}, "time budget"),
        ({"budget_s": math.nan}, "time budget"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_options_refuse(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        options(**changes)


def test_options_survive_json() -> None:
    chosen = options(batch_sizes=(1, 64), scopes=("compute", "end_to_end"), warmup_s=1, budget_s=2)
    assert MeasureOptions.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [1, "8"]}, r"options: batch_sizes\[1\] must be an integer"),
        ({"scopes": [3]}, r"options: scopes\[0\] must be a string"),
        ({"seed": None}, "options: seed must be an integer, not null"),
        ({"budget_s": -1.0}, "time budget"),
    ],
)
def test_reading_options_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureOptions.from_json({**options().to_json(), **changes})
