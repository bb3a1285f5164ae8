"""The only clock, and the only lines that time a call: the same for every backend.

Candidates take turns in short blocks, in a random order, so that a machine that heats up or gets busy slows
all of them; timed one after the other, its drift would pass for a difference between them. A block is at
least BLOCK_CALLS calls and BLOCK_S long: changing the candidate at every call would measure how fast caches
refill instead of the network.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from bn_deploy.backends.base import Feeds, Runner, infer
from bn_deploy.bench.options import Scope

Clock = Callable[[], float]

CLOCK: Clock = time.perf_counter
"""The clock of every figure in seconds."""

BLOCK_CALLS = 10
BLOCK_S = 0.002
WARMUP_CALLS = 3  # the first calls allocate, choose kernels and load code, however long the warm-up is
MIN_ROUNDS = 2  # however slow a network is: one block alone would show no disturbance

Call = Callable[[], object]


def nothing() -> None:
    """What is done before a call when its inputs are to be warm, and the call that the harness costs."""


@dataclass
class Cell:
    """One candidate in one cell of the measurement, while it is being measured.

    Attributes:
        call: what is timed.
        prepare: what is done before each timed call, untimed.
        blocks: timed calls of each block, a block for each turn.
        samples_s: seconds of each timed call, in the order of the calls.
        warmup_calls, warmup_s: calls before the first timed one, and how long they took.
    """

    call: Call
    prepare: Call = nothing
    blocks: list[int] = field(default_factory=list)
    samples_s: list[float] = field(default_factory=list)
    warmup_calls: int = 0
    warmup_s: float = 0.0

    def warm_up(self, least_s: float, clock: Clock) -> None:
        """Calls it at least WARMUP_CALLS times and for `least_s`."""
        began = clock()
        while self.warmup_calls < WARMUP_CALLS or self.warmup_s < least_s:
            self.call()
            self.warmup_calls += 1
            self.warmup_s = clock() - began

    def time_block(self, clock: Clock) -> None:
        """One turn: a call that is not timed, as the caches are full of somebody else's; then a block."""
        prepare, call, samples = self.prepare, self.call, self.samples_s
        first = len(samples)
        enough = first + BLOCK_CALLS
        call()
        with without_garbage_collection():
            began = ended = clock()
            while len(samples) < enough or ended - began < BLOCK_S:
                prepare()
                started = clock()
                call()
                ended = clock()
                samples.append(ended - started)
        self.blocks.append(len(samples) - first)


def take_turns(
    cells: Sequence[Cell],
    *,
    until: float,
    rounds: int,
    order: np.random.Generator,
    clock: Clock = CLOCK,
) -> None:
    """Lets the cells take turns, a block each, in a new random order every round.

    Args:
        cells: warmed up.
        until: the clock's time after which no further round begins, once there are MIN_ROUNDS.
        rounds: how many at most.
        order: draws the orders.
        clock: seconds from an arbitrary origin.
    """
    done = 0
    while done < min(rounds, MIN_ROUNDS) or (done < rounds and clock() < until):
        for position in order.permutation(len(cells)):
            cells[position].time_block(clock)
        done += 1


def call_of(scope: Scope, runner: Runner, feeds: Feeds) -> Call:
    """What is called to time that scope of `runner` on `feeds`."""
    return _CALLS[scope](runner, feeds)


def _compute_call(runner: Runner, feeds: Feeds) -> Call:
    runner.load(feeds)
    return partial(_compute, runner)


def _compute(runner: Runner) -> None:
    runner.enqueue()
    runner.synchronize()


def _end_to_end_call(runner: Runner, feeds: Feeds) -> Call:
    return partial(infer, runner, feeds)


def _h2d_call(runner: Runner, feeds: Feeds) -> Call:
    return partial(_load, runner, feeds)


def _load(runner: Runner, feeds: Feeds) -> None:
    runner.load(feeds)
    runner.synchronize()


def _d2h_call(runner: Runner, feeds: Feeds) -> Call:
    infer(runner, feeds)
    return runner.fetch


_CALLS: Mapping[Scope, Callable[[Runner, Feeds], Call]] = {
    "compute": _compute_call,
    "end_to_end": _end_to_end_call,
    "h2d": _h2d_call,
    "d2h": _d2h_call,
}


def overhead_s(clock: Clock = CLOCK, calls: int = 2000) -> float:
    """What timing adds to each sample: the median time of a call that does nothing, by the same lines."""
    cell = Cell(nothing)
    while len(cell.samples_s) < calls:
        cell.time_block(clock)
    return float(np.median(cell.samples_s))


def wait_until(due: float, clock: Clock = CLOCK) -> None:
    """Returns when the clock says `due`, at once if that has passed.

    Sleeps while there is time and busy-waits for the last millisecond: a sleep ends late by as much as that.
    """
    while (left := due - clock()) > 0:
        if left > _LATE_S:
            time.sleep(left - _LATE_S)


_LATE_S = 0.001


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Keeps the collector out of a block: its pauses belong to no call. Puts it back as it was."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
