from __future__ import annotations

import numpy as np
import pytest

from bn_deploy.bench.arrivals import PATIENCE, serve
from tests.fakes import FakeClock


def served(
    clock: FakeClock, pattern: dict[int, float], *, rate: float = 10.0, seconds: float = 100.0
) -> tuple[list[float], int]:
    """A service that takes 1 ms, but for some of its calls."""
    count = iter(range(10**9))

    def wait(due: float) -> None:
        clock.advance(max(0.0, due - clock.now_s))

    return serve(
        lambda: clock.advance(pattern.get(next(count), 0.001)),
        rate_per_s=rate,
        seconds=seconds,
        draw=np.random.default_rng(4),
        clock=clock,
        wait=wait,
    )


def test_a_free_service_answers_in_its_own_time() -> None:
    latencies, lost = served(FakeClock(), {}, rate=1.0, seconds=1000.0)
    assert lost == 0
    assert np.median(latencies) == pytest.approx(0.001)


def test_a_stall_counts_for_everybody_who_had_to_wait() -> None:
    # Ten requests a second, and one takes 5 s: about fifty more arrive meanwhile and wait on average 2.5 s.
    latencies, lost = served(FakeClock(), {300: 5.0})
    slow = [latency for latency in latencies if latency > 0.1]
    assert lost == 0
    assert 30 <= len(slow) <= 70, "a closed loop would have seen one"
    assert np.mean(slow) == pytest.approx(2.5, abs=0.6)
    assert max(slow) == pytest.approx(5.0, abs=0.01)


def test_arrivals_are_those_of_a_poisson_process() -> None:
    clock, due = FakeClock(), list[float]()

    def wait(when: float) -> None:
        due.append(when)

    serve(
        lambda: None,
        rate_per_s=50.0,
        seconds=200.0,
        draw=np.random.default_rng(0),
        clock=clock,
        wait=wait,
    )
    gaps = np.diff(due)
    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert due[-1] < 200.0
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05), "exponential: as wide as its mean"


def test_one_that_cannot_keep_up_is_given_up_and_the_rest_is_counted() -> None:
    clock = FakeClock()
    latencies, lost = served(clock, dict.fromkeys(range(10**5), 1.0), rate=100.0, seconds=10.0)
    assert clock.now_s == pytest.approx(PATIENCE * 10.0, abs=1.5)
    assert len(latencies) == pytest.approx(20, abs=2)
    assert len(latencies) + lost == pytest.approx(1000, rel=0.15)
    assert latencies == sorted(latencies), "the queue only grows"


def test_at_least_one_request_arrives() -> None:
    latencies, lost = served(FakeClock(), {}, rate=0.001, seconds=0.0)
    assert (len(latencies), lost) == (1, 0)
