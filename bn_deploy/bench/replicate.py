"""A whole measurement: as many fresh processes as were asked for, their samples put together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.conditions import Watch
from bn_deploy.bench.job import Job
from bn_deploy.bench.measure import CLOCK, Clock
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.processes import Command, Worker
from bn_deploy.bench.rows import LatencyResult, Run
from bn_deploy.errors import CheckFailed, InputError
from bn_deploy.spec import Precision, Track

SIDE_BY_SIDE = 2
"""Processes that open their candidates at the same time; then they are timed one by one, the other asleep."""


@dataclass(frozen=True)
class Replicated:
    """What the processes sent.

    Attributes:
        results: a row for each cell and candidate, in this nesting and in the order given.
        overhead_s: what timing itself adds to each sample: the largest of the processes' medians.
        conditions: how the machine was, as `Watch.summary` has it.
        interrupted: whether the user stopped it before every process was done.
    """

    results: tuple[LatencyResult, ...]
    overhead_s: float
    conditions: Mapping[str, Any]
    interrupted: bool


@dataclass
class _Gathered:
    """The events of all processes so far."""

    about: list[dict[str, Any]] = field(default_factory=list)
    census: list[dict[str, int] | None] | None = None
    overheads_s: list[float] = field(default_factory=list)
    runs: defaultdict[tuple[int, str, int], list[Run]] = field(default_factory=lambda: defaultdict(list))
    watch: Watch = field(default_factory=Watch)

    def work(
        self,
        candidates: Sequence[Candidate],
        inputs: Path,
        options: MeasureOptions,
        *,
        command: Command,
        deadline: float,
        clock: Clock,
    ) -> Iterator[None]:
        """Runs the processes, some of which open side by side; yields after each cell."""
        for first in range(0, options.processes, SIDE_BY_SIDE):
            numbers = range(first, min(first + SIDE_BY_SIDE, options.processes))
            with ExitStack() as stack:
                began = clock()
                workers = [
                    stack.enter_context(
                        Worker(command, Job(tuple(candidates), inputs, options, n, describe=n == 0))
                    )
                    for n in numbers
                ]
                for number, worker in zip(numbers, workers, strict=True):
                    self._check(candidates, worker.opened()["about"], number)
                opening = clock() - began
                for number, worker in zip(numbers, workers, strict=True):
                    unopened = len(range(numbers.stop, options.processes, SIDE_BY_SIDE)) * opening
                    seconds = max(0.0, deadline - clock() - unopened) / (options.processes - number)
                    for event in worker.measure(seconds):
                        if event["event"] == "cell":
                            self._keep(event, number)
                            yield
                        elif event["event"] == "started":
                            self.overheads_s.append(event["overhead_s"])
                        elif event["census"] is not None:
                            self.census = event["census"]
                    self.watch.look_at_gpu()

    def _keep(self, event: dict[str, Any], process: int) -> None:
        for place, run in enumerate(event["runs"]):
            row = self.runs[event["batch"], event["scope"], place]
            row.append(Run.from_json({"process": process, **run}))

    def _check(self, candidates: Sequence[Candidate], about: list[dict[str, Any]], process: int) -> None:
        """What a runner says of itself must be the same in every process."""
        self.about = self.about or about
        for candidate, first, now in zip(candidates, self.about, about, strict=True):
            if first != now:
                raise CheckFailed(
                    f"{candidate.name} ran differently in process {process} than before: {now}, not {first}"
                )


def replicate(
    candidates: Sequence[Candidate],
    inputs: Path,
    options: MeasureOptions,
    *,
    command: Command,
    deadline: float,
    track: Track,
    clock: Clock = CLOCK,
) -> Replicated:
    """Times the candidates in fresh processes, one after the other.

    Each process gets an equal share of the time that is left when it may begin, so a machine that takes long
    to start processes spends less on timing and ends when it was told to.

    Args:
        candidates: what to time, no two of the same name.
        inputs: a .npz file, see Job.
        options: how.
        command: starts a worker.
        deadline: the clock's time at which all should be done.
        track: told about each process and cell.
        clock: seconds from an arbitrary origin.

    Raises:
        InputError: no candidate, two of the same name, or one refuses a batch size.
        CheckFailed: a candidate ran differently in one process than in another.
        KeyboardInterrupt: the user interrupted before there was a single sample.
        BnDeployError: a candidate cannot be opened, or does not run.
    """
    if not candidates:
        raise InputError("nothing to time: no candidate was given")
    names = [candidate.name for candidate in candidates]
    if len(set(names)) != len(names):
        raise InputError(f"two candidates have the same name: {', '.join(sorted(names))}")
    gathered = _Gathered()
    steps = options.processes * len(options.batch_sizes) * len(options.scopes)
    interrupted = False
    try:
        working = gathered.work(candidates, inputs, options, command=command, deadline=deadline, clock=clock)
        for _ in track(working, "timing", steps):
            gathered.watch.look()
    except KeyboardInterrupt:
        if not gathered.runs:
            raise
        interrupted = True
    results = tuple(
        _row(candidate, place, batch, scope, gathered)
        for batch in options.batch_sizes
        for scope in options.scopes
        for place, candidate in enumerate(candidates)
        if gathered.runs[batch, scope, place]
    )
    return Replicated(results, max(gathered.overheads_s), gathered.watch.summary(), interrupted)


def _row(candidate: Candidate, place: int, batch: int, scope: Any, gathered: _Gathered) -> LatencyResult:
    about = gathered.about[place]
    return LatencyResult(
        model=candidate.label,
        backend=candidate.backend,
        again=candidate.again,
        requested=candidate.requested,
        provider=about["provider"],
        device=about["device"],
        precision=Precision(about["precision"]),
        threads=about["threads"] or (candidate.threads if about["device"] == "cpu" else None),
        spinning=about["spinning"],
        cuda_graph=about["cuda_graph"],
        no_cuda_graph=about["no_cuda_graph"],
        tf32=about["tf32"],
        batch=batch,
        scope=scope,
        census=gathered.census[place] if gathered.census else None,
        runs=tuple(gathered.runs[batch, scope, place]),
    )


@dataclass(frozen=True)
class Memory:
    """What a network takes in a process of its own; None is what the system does not tell.

    Attributes:
        name: the candidate's.
        open_bytes: by how much the process grew when the runtime was loaded and the network was opened.
        run_bytes: by how much it had grown after a call at each batch size.
        peak_bytes: the most that the process ever held, interpreter and all.
        gpu_bytes: by how much the GPU's memory in use had grown after those calls, by the runtime's own
            context too, and by whatever else took some meanwhile; None where the CPU computes.
    """

    name: str
    open_bytes: int | None
    run_bytes: int | None
    peak_bytes: int | None
    gpu_bytes: int | None = None


def memory(candidate: Candidate, inputs: Path, options: MeasureOptions, *, command: Command) -> Memory:
    """Opens a candidate alone in a fresh process, calls it once at each batch size, asks for its memory.

    Raises:
        BnDeployError: it cannot be opened, or does not run.
    """
    job = Job((candidate,), inputs, options, 0, probe=True)
    with Worker(command, job) as worker:
        worker.opened()
        *_, done = worker.measure(0.0)
    before, opened, run, peak = done["memory"]
    gpu = _grown(*done["gpu_memory"]) if done["gpu_memory"] else None
    return Memory(candidate.name, _grown(before, opened), _grown(before, run), peak, gpu)


def _grown(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(0, after - before)
