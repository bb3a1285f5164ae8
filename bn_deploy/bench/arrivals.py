"""The scenario "server": calls that arrive at random, whether or not the runner is free.

A closed loop sends the next call when the last one has returned, so a stall delays the calls after it and
leaves one slow sample. Here the arrivals are drawn beforehand, and the latency of a call counts from when it
was due: a stall then shows in every call that had to wait for it (wrk2 and HdrHistogram call the other way
"coordinated omission"; MLPerf's server scenario draws its arrivals likewise, from a Poisson process).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bn_deploy.bench.measure import CLOCK, Call, Clock, wait_until, without_garbage_collection

PATIENCE = 2.0
"""A segment is given up when it has lasted so many times longer than its arrivals took."""


def serve(
    call: Call,
    *,
    rate_per_s: float,
    seconds: float,
    draw: np.random.Generator,
    clock: Clock = CLOCK,
    wait: Callable[[float], None] | None = None,
) -> tuple[list[float], int]:
    """Calls at random times, one at a time, in the order of arrival.

    Args:
        call: one request.
        rate_per_s: arrivals in a second, on average.
        seconds: for how long requests arrive; at least one does.
        draw: draws the times between arrivals, which are exponential.
        clock: seconds from an arbitrary origin.
        wait: returns at a given time of that clock; None means `wait_until`.

    Returns:
        Seconds from when each request was due until it was answered; and how many were never answered,
        because the runner fell so far behind that the rest was given up.
    """
    wait = wait or (lambda due: wait_until(due, clock))
    due = _arrivals(rate_per_s, seconds, draw)
    latencies: list[float] = []
    with without_garbage_collection():
        began = clock()
        for arrival in due:
            wait(began + arrival)
            call()
            answered = clock()
            latencies.append(answered - (began + arrival))
            if answered - began > PATIENCE * max(seconds, arrival):
                break
    return latencies, len(due) - len(latencies)


def _arrivals(rate_per_s: float, seconds: float, draw: np.random.Generator) -> list[float]:
    """The times of a Poisson process until `seconds`, at least the first."""
    times = [float(draw.exponential(1 / rate_per_s))]
    while (after := times[-1] + float(draw.exponential(1 / rate_per_s))) < seconds:
        times.append(after)
    return times
