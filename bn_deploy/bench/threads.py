"""How many threads a runtime is given, found out by trying.

For a small network threads wait for each other longer than they compute, for a large one they pay; where that
changes depends on the network, the batch, the runtime and the machine.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bn_deploy.backends.base import Feeds, Runner, infer
from bn_deploy.bench.measure import BLOCK_CALLS, CLOCK, WARMUP_CALLS, Clock
from bn_deploy.errors import InputError

OpenWith = Callable[[int, bool], Runner]
"""Opens a runner with so many threads, whose idle ones spin or sleep."""

INDIFFERENCE = 0.02  # a setting that costs more of the machine must be faster by more than this


@dataclass(frozen=True, order=True)
class Setting:
    """One way to use the cores; what sorts first costs the machine less.

    Attributes:
        threads: CPU threads.
        spinning: whether idle threads busy-wait for work; one thread never waits for another.
    """

    threads: int
    spinning: bool

    def __str__(self) -> str:
        many = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return many if self.threads == 1 else f"{many}, {'spinning' if self.spinning else 'sleeping'}"


@dataclass(frozen=True)
class Choice:
    """What a calibration chose, and from what.

    Attributes:
        threads: CPU threads to open the runner with.
        spinning: whether idle threads are to busy-wait.
        medians_s: for each setting that was tried the median seconds of a call, averaged over its visits.
    """

    threads: int
    spinning: bool
    medians_s: Mapping[Setting, float]

    def to_json(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {
            "threads": self.threads,
            "spinning": self.spinning,
            "tried": [
                {"threads": setting.threads, "spinning": setting.spinning, "median_s": round(median_s, 9)}
                for setting, median_s in self.medians_s.items()
            ],
        }


def settings(cores: int | None = None, *, spins: bool) -> tuple[Setting, ...]:
    """The settings worth trying: powers of two and every core, cheapest first.

    Args:
        cores: cores to use at most; None means those that this process may run on.
        spins: whether the runtime lets its threads spin or sleep; else they are tried as sleeping ones.
    """
    if cores is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux only
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    counts = sorted({1 << power for power in range(cores.bit_length())} | {cores})
    return tuple(
        Setting(threads, spinning)
        for threads in counts
        for spinning in ((False, True) if spins and threads > 1 else (False,))
    )


def calibrate(
    open_with: OpenWith,
    feeds: Feeds,
    budget_s: float = 2.0,
    *,
    among: Sequence[Setting] | None = None,
    clock: Clock = CLOCK,
) -> Choice:
    """Tries each setting on `feeds` and takes the fastest, or one that is hardly slower and costs less.

    One runner is open at a time, because the spinning threads of an idle one would take the others' cores.
    The settings are gone through twice, the second time backwards, and the medians of both times averaged: so
    a machine that gets steadily slower slows them all alike. A call is an inference end to end.

    Args:
        open_with: opens a runner with a number of threads, spinning or not.
        feeds: the inputs of each call; the choice holds for their batch size.
        budget_s: time for all of it, loading included. Every setting is tried once even where that takes
            longer, and a second time unless it did.
        among: the settings; None means all that `settings` lists for a runtime whose threads can spin. With
            only one, nothing is opened.
        clock: seconds from an arbitrary origin.

    Raises:
        InputError: there is no setting, or the runner does not take `feeds`.
        ModelError: the runtime cannot run the network.
        NotAvailable: it cannot be opened here.
    """
    among = settings(spins=True) if among is None else among
    if not among:
        raise InputError("nothing to calibrate: no setting was given")
    if len(among) == 1:
        return Choice(among[0].threads, among[0].spinning, {})
    visits_s: dict[Setting, list[float]] = {setting: [] for setting in among}
    visit_s = budget_s / (2 * len(among))
    began = clock()
    for turn in (among, tuple(reversed(among))):
        if turn is among or clock() - began < budget_s:
            for setting in turn:
                visits_s[setting].append(_visit(open_with, setting, feeds, visit_s, clock))
    medians_s = {setting: statistics.fmean(medians) for setting, medians in visits_s.items()}
    best_s = min(medians_s.values())
    chosen = min(s for s, median_s in medians_s.items() if median_s <= best_s * (1 + INDIFFERENCE))
    return Choice(chosen.threads, chosen.spinning, medians_s)


def _visit(open_with: OpenWith, setting: Setting, feeds: Feeds, visit_s: float, clock: Clock) -> float:
    """The median seconds of a call, after a warm-up, until `visit_s` after it was asked for."""
    samples_s: list[float] = []
    began = clock()
    with open_with(setting.threads, setting.spinning) as runner:
        for _ in range(WARMUP_CALLS):
            infer(runner, feeds)
        while len(samples_s) < BLOCK_CALLS or clock() - began < visit_s:
            started = clock()
            infer(runner, feeds)
            samples_s.append(clock() - started)
    return statistics.median(samples_s)
