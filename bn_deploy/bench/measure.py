"""The only clock, and the only lines that time a call: the same for every backend.

Candidates take turns in short blocks, in a random order, so that a machine that heats up or gets busy slows
all of them; timed one after the other, its drift would pass for a difference between them. A block is at
least BLOCK_CALLS calls and BLOCK_S long: changing the candidate at every call would measure how fast caches
refill instead of the network.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bn_deploy.backends.base import Feeds, Runner, infer
from bn_deploy.bench.fields import elements, fields
from bn_deploy.bench.stats import SCOPES, LatencyResult, Scope
from bn_deploy.errors import InputError
from bn_deploy.spec import Track

Clock = Callable[[], float]

CLOCK: Clock = time.perf_counter
"""The clock of every figure in seconds."""

BLOCK_CALLS = 10
BLOCK_S = 0.002
WARMUP_CALLS = 3  # the first calls allocate, choose kernels and load code, however long the warm-up is


@dataclass(frozen=True)
class Candidate:
    """One network in one runtime.

    Attributes:
        model: its label in the results, such as "folded".
        runner: the open runner.
        threads: threads that the runner was given; None where that means nothing.
    """

    model: str
    runner: Runner
    threads: int | None


@dataclass(frozen=True)
class MeasureOptions:
    """How long and on what to measure; a *cell* is one candidate at one batch size and scope.

    The defaults time five candidates at four batch sizes in about 30 s, for calls of up to 20 ms.

    Attributes:
        batch_sizes: rows per call.
        scopes: what is timed, one row of results each.
        warmup_s: least time of calls before the first timed one.
        target_samples: timed calls wanted; p99 needs 662.
        budget_s: time after which a cell begins no further block, whatever samples it has.
        seed: of the order in which candidates take turns.

    Raises:
        InputError: a value is out of its range.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 64, 256)
    scopes: tuple[Scope, ...] = ("end_to_end",)
    warmup_s: float = 0.1
    target_samples: int = 700
    budget_s: float = 1.3  # 20 ms calls then give 70 samples, enough for p90
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values in (("batch sizes", self.batch_sizes), ("scopes", self.scopes)):
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name} must be given, each once, not {list(values)}")
        if min(self.batch_sizes) < 1:
            raise InputError(f"batch sizes must be at least 1, not {min(self.batch_sizes)}")
        if unknown := set(self.scopes) - set(SCOPES):
            raise InputError(f"a scope is one of {', '.join(SCOPES)}, not {', '.join(sorted(unknown))}")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise InputError(f"the warm-up must be 0 s or more, not {self.warmup_s}")
        if self.target_samples < 1:
            raise InputError(f"the number of samples must be at least 1, not {self.target_samples}")
        if not (math.isfinite(self.budget_s) and self.budget_s > 0):
            raise InputError(f"the time budget must be more than 0 s, not {self.budget_s}")
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or more, not {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "scopes": list(self.scopes),
            "warmup_s": float(self.warmup_s),
            "target_samples": self.target_samples,
            "budget_s": float(self.budget_s),
            "seed": self.seed,
        }

    @classmethod
    def from_json(cls, value: object, what: str = "options") -> MeasureOptions:
        """Reads what `to_json` wrote; `what` names it in messages.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _KINDS, what)
        row = {
            **row,
            "batch_sizes": elements(row["batch_sizes"], int, f"{what}: batch_sizes"),
            "scopes": elements(row["scopes"], str, f"{what}: scopes"),
        }
        return cls(**row)


_KINDS: dict[str, tuple[type, ...]] = {
    "batch_sizes": (list,),
    "scopes": (list,),
    "warmup_s": (float,),
    "target_samples": (int,),
    "budget_s": (float,),
    "seed": (int,),
}


def measure(
    candidates: Sequence[Candidate],
    feeds: Callable[[int], Feeds],
    options: MeasureOptions,
    *,
    track: Track,
    clock: Clock = CLOCK,
) -> list[LatencyResult]:
    """Times every candidate at every batch size and scope.

    For each batch size and scope, all candidates are warmed up and then take turns, a block each, in a new
    random order every round, until each has its samples or has used its time. One that has its samples goes
    on with the others while its time lasts, so that all see the same stretch of the machine's day; so a
    result may hold more samples than asked for. All of them are kept.

    Args:
        candidates: what to time, runners open.
        feeds: makes the inputs for a number of rows; called once per batch size.
        options: how long and on what.
        track: told about each batch size and scope.
        clock: seconds from an arbitrary origin.

    Returns:
        One result per batch size, scope and candidate, in this nesting and in the order given.

    Raises:
        InputError: no candidate; or one refuses a batch size, which is found before anything is timed.
    """
    if not candidates:
        raise InputError("nothing to time: no candidate was given")
    inputs = {batch: feeds(batch) for batch in options.batch_sizes}
    _check_batches(candidates, inputs)
    order = np.random.default_rng(options.seed)
    grid = [(batch, scope) for batch in options.batch_sizes for scope in options.scopes]
    results: list[LatencyResult] = []
    for batch, scope in track(grid, "timing", len(grid)):
        cells = [_Cell(candidate, _CALLS[scope](candidate.runner, inputs[batch])) for candidate in candidates]
        for cell in cells:
            cell.warm_up(options.warmup_s, clock)
        while not all(cell.has_enough(options) for cell in cells):
            running = [cell for cell in cells if cell.used_s < options.budget_s]
            for position in order.permutation(len(running)):
                running[position].time_block(clock)
        results += [cell.result(batch, scope) for cell in cells]
    return results


def _check_batches(candidates: Sequence[Candidate], inputs: Mapping[int, Feeds]) -> None:
    for candidate in candidates:
        for batch, feeds in inputs.items():
            try:
                candidate.runner.load(feeds)
            except InputError as error:
                who = f"{candidate.model} on {candidate.runner.backend}"
                raise InputError(f"{who} does not take batch size {batch}: {error}") from error


def _compute_call(runner: Runner, feeds: Feeds) -> Callable[[], object]:
    runner.load(feeds)
    return partial(_compute, runner)


def _compute(runner: Runner) -> None:
    runner.enqueue()
    runner.synchronize()


def _end_to_end_call(runner: Runner, feeds: Feeds) -> Callable[[], object]:
    return partial(infer, runner, feeds)


_CALLS: Mapping[Scope, Callable[[Runner, Feeds], Callable[[], object]]] = {
    "compute": _compute_call,
    "end_to_end": _end_to_end_call,
}


@dataclass
class _Cell:
    """One candidate at one batch size and scope, while it is being measured."""

    candidate: Candidate
    call: Callable[[], object]
    samples_s: list[float] = field(default_factory=list)
    used_s: float = 0.0
    warmup_calls: int = 0
    warmup_s: float = 0.0

    def warm_up(self, least_s: float, clock: Clock) -> None:
        began = clock()
        while self.warmup_calls < WARMUP_CALLS or self.warmup_s < least_s:
            self.call()
            self.warmup_calls += 1
            self.warmup_s = clock() - began

    def has_enough(self, options: MeasureOptions) -> bool:
        return len(self.samples_s) >= options.target_samples or self.used_s >= options.budget_s

    def time_block(self, clock: Clock) -> None:
        call, samples = self.call, self.samples_s
        enough = len(samples) + BLOCK_CALLS
        with _without_garbage_collection():
            began = ended = clock()
            while len(samples) < enough or ended - began < BLOCK_S:
                started = clock()
                call()
                ended = clock()
                samples.append(ended - started)
        self.used_s += ended - began

    def result(self, batch: int, scope: Scope) -> LatencyResult:
        runner = self.candidate.runner
        return LatencyResult(
            model=self.candidate.model,
            backend=runner.backend,
            provider=runner.provider,
            device=runner.device,
            precision=runner.precision,
            threads=self.candidate.threads,
            batch=batch,
            scope=scope,
            # The clock counts nanoseconds; digits below come from subtracting floats.
            samples_s=tuple(round(sample, 9) for sample in self.samples_s),
            warmup_calls=self.warmup_calls,
            warmup_s=round(self.warmup_s, 9),
        )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Keeps the collector out of a block: its pauses belong to no call. Puts it back as it was."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
