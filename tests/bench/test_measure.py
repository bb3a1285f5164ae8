from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from bn_deploy.backends.base import Feeds
from bn_deploy.bench.measure import (
    BLOCK_CALLS,
    BLOCK_S,
    MIN_ROUNDS,
    WARMUP_CALLS,
    Cell,
    call_of,
    overhead_s,
    take_turns,
    wait_until,
    without_garbage_collection,
)
from tests.fakes import FakeClock, FakeRunner

ALL_VERBS_S = {"load": 0.000_1, "enqueue": 0.001, "synchronize": 0.01, "fetch": 0.1}
FEEDS: Feeds = {"image": np.ones((1, 4), np.float32)}


def turns(
    cells: Sequence[Cell], clock: FakeClock, *, rounds: int = 10, until: float = 1e9, seed: int = 7
) -> None:
    take_turns(cells, until=until, rounds=rounds, order=np.random.default_rng(seed), clock=clock)


def costing(clock: FakeClock, log: list[str], name: str, *pattern: float) -> Cell:
    """A cell whose calls take these seconds in turn, and tell a list that they were made."""
    seconds = itertools.cycle(pattern)

    def call() -> None:
        log.append(name)
        clock.advance(next(seconds))

    return Cell(call)


@pytest.mark.parametrize(
    ("scope", "seconds"), [("compute", 0.011), ("end_to_end", 0.111_1), ("h2d", 0.010_1), ("d2h", 0.1)]
)
def test_a_scope_times_its_verbs_and_no_other(scope: Any, seconds: float) -> None:
    clock = FakeClock()
    cell = Cell(call_of(scope, FakeRunner(clock, ALL_VERBS_S), FEEDS))
    turns([cell], clock)
    assert cell.samples_s == pytest.approx([seconds] * 100)


@pytest.mark.parametrize(
    ("scope", "first", "each"),
    [
        ("compute", ["load"], ["enqueue", "synchronize"]),
        ("end_to_end", [], ["load", "enqueue", "synchronize", "fetch"]),
        ("h2d", [], ["load", "synchronize"]),
        ("d2h", ["load", "enqueue", "synchronize", "fetch"], ["fetch"]),
    ],
)
def test_a_scope_calls_its_verbs_and_no_other(scope: Any, first: list[str], each: list[str]) -> None:
    clock = FakeClock()
    runner = FakeRunner(clock, ALL_VERBS_S)
    turns([Cell(call_of(scope, runner, FEEDS))], clock, rounds=1)
    assert runner.verbs == [*first, *each * (1 + BLOCK_CALLS)], "one call to settle, then a block"


def test_every_call_is_one_sample_in_order_and_outliers_stay() -> None:
    clock = FakeClock()
    pattern = (*[0.001] * 9, 5.0, 0.002)
    cell = costing(clock, [], "a", *pattern)
    turns([cell], clock, rounds=3)
    expected = itertools.islice(itertools.cycle(pattern), 33)
    settled = [sample for place, sample in enumerate(expected) if place % 11]
    assert cell.samples_s == pytest.approx(settled), "the first call of each block settles the caches"
    assert cell.blocks == [10, 10, 10]
    assert max(cell.samples_s) == pytest.approx(5.0)


def test_a_block_has_at_least_ten_calls_and_two_milliseconds() -> None:
    clock, log = FakeClock(), list[str]()
    slow, fast = costing(clock, log, "slow", 0.002), costing(clock, log, "fast", 0.000_1)
    turns([slow, fast], clock)
    assert slow.blocks == [BLOCK_CALLS] * 10
    # 20 times 0.1 ms may add up to a hair less than 2 ms, and then a block takes one call more.
    assert set(fast.blocks) <= {round(BLOCK_S / 0.000_1), round(BLOCK_S / 0.000_1) + 1}


def first_in_round(seed: int, rounds: int = 60) -> list[str]:
    clock, log = FakeClock(), list[str]()
    turns([costing(clock, log, name, 0.001) for name in "abc"], clock, rounds=rounds, seed=seed)
    order = log[:: BLOCK_CALLS + 1]
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

    def drifting() -> None:
        clock.advance(0.001 * (1 + clock.now_s))

    one, other = Cell(drifting), Cell(drifting)
    turns([one, other], clock, rounds=40)
    assert max(one.samples_s) > 2 * min(one.samples_s), "the drift must be there"
    assert np.median(one.samples_s) == pytest.approx(np.median(other.samples_s), rel=0.05)


def test_no_round_begins_after_its_time() -> None:
    clock = FakeClock()
    cell = costing(clock, [], "a", 0.5)
    turns([cell], clock, rounds=1000, until=12.0)
    assert cell.blocks == [10, 10, 10], "a block of 11 calls takes 5.5 s: the third begins at 11 s"


def test_even_what_has_no_time_left_is_measured() -> None:
    clock = FakeClock()
    cells = [costing(clock, [], name, 9.0) for name in "ab"]
    turns(cells, clock, rounds=1000, until=0.0)
    assert [len(cell.blocks) for cell in cells] == [MIN_ROUNDS] * 2


def test_warm_up_is_not_in_the_samples_and_lasts_its_time() -> None:
    clock = FakeClock()
    cell = costing(clock, [], "a", *[0.25] * 4, *[0.001] * 10_000)
    cell.warm_up(1.0, clock)
    turns([cell], clock)
    assert (cell.warmup_calls, cell.warmup_s) == (4, 1.0)
    assert cell.samples_s == pytest.approx([0.001] * 100)
    fast = costing(clock, [], "b", 0.001)
    fast.warm_up(0.0, clock)
    assert fast.warmup_calls == WARMUP_CALLS


def test_what_is_done_before_a_call_is_not_timed() -> None:
    clock = FakeClock()
    cell = costing(clock, [], "a", 0.001)
    cell.prepare = lambda: clock.advance(7.0)
    turns([cell], clock, rounds=1)
    assert cell.samples_s == pytest.approx([0.001] * 10)


def test_what_timing_costs_is_the_time_between_two_looks_at_the_clock() -> None:
    ticks = itertools.count()
    assert overhead_s(lambda: next(ticks) * 0.000_3, calls=50) == pytest.approx(0.000_3)


def test_waiting_ends_when_it_is_due_and_not_before() -> None:
    clock = FakeClock()
    polled: list[float] = []

    def poll() -> float:
        polled.append(clock.now_s)
        clock.advance(0.000_1)
        return polled[-1]

    wait_until(0.000_75, poll)
    assert polled[-1] >= 0.000_75
    assert polled[-2] < 0.000_75
    wait_until(-1.0, poll)
    assert len(polled) == 10, "what is past is not waited for"


@pytest.fixture
def _collector() -> Iterator[None]:
    was_enabled = gc.isenabled()
    yield
    (gc.enable if was_enabled else gc.disable)()


@pytest.mark.usefixtures("_collector")
@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_stays_out_of_a_block_and_is_put_back(enabled: bool) -> None:
    clock, seen = FakeClock(), list[bool]()
    (gc.enable if enabled else gc.disable)()

    def call() -> None:
        seen.append(gc.isenabled())
        clock.advance(0.001)

    turns([Cell(call)], clock, rounds=1)
    assert not any(seen[1:]), "every timed call"
    assert gc.isenabled() is enabled


@pytest.mark.usefixtures("_collector")
def test_the_collector_is_put_back_after_an_error() -> None:
    gc.enable()
    with pytest.raises(ZeroDivisionError), without_garbage_collection():
        raise ZeroDivisionError
    assert gc.isenabled()
