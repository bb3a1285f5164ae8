"""The work of one fresh process: opens every candidate, lets them take turns, sends the samples home.

One job comes in as a line of JSON, one event after the other goes out as a line of JSON:

    opened    what each runner says of itself; it then waits for a second line: the seconds for the timing
    started   what timing costs
    cell      every sample of a batch size and scope; the next one may never come, if the user interrupts
    done      what could only be asked afterwards: the loaded graphs' operators, memory
    failed    one of our own errors, by the name of its class

How a candidate is opened is the caller's: this room knows no models.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bn_deploy.backends.base import Array, Feeds, Runner, facts, infer, loaded_census
from bn_deploy.backends.gpu_caches import GpuCaches
from bn_deploy.bench import measure
from bn_deploy.bench.arrivals import serve
from bn_deploy.bench.caches import Rotation, cold
from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.job import Job
from bn_deploy.bench.measure import CLOCK, Call, Cell, Clock
from bn_deploy.bench.memory import gpu_bytes, peak_bytes, resident_bytes
from bn_deploy.bench.options import MeasureOptions, Scope
from bn_deploy.errors import BnDeployError, InputError

Open = Callable[[Candidate], Runner]
Event = dict[str, Any]

SEGMENTS = 4
"""In the scenario "server", how many turns each candidate has in a process."""


def work(lines: TextIO, open_candidate: Open, out: TextIO) -> None:
    """Does one job.

    Args:
        lines: first the job, as `Job.to_json` wrote it, then, once everything is open, how long to time it.
        open_candidate: makes a runner.
        out: takes the events, a line each.
    """

    def told() -> float:
        line = lines.readline()
        if not line:
            raise EOFError
        return float(json.loads(line)["seconds"])

    try:
        for event in events(Job.from_json(json.loads(lines.readline())), open_candidate, told):
            _send(event, out)
    except BnDeployError as error:
        _send({"event": "failed", "kind": type(error).__name__, "message": str(error)}, out)
    except EOFError:
        return  # whoever asked has left, or does without this process


def _send(event: Event, out: TextIO) -> None:
    out.write(json.dumps(event, allow_nan=False, separators=(",", ":")) + "\n")
    out.flush()


def events(
    job: Job, open_candidate: Open, told: Callable[[], float], *, clock: Clock = CLOCK
) -> Iterator[Event]:
    """Does a job, event by event.

    Args:
        job: what to do.
        open_candidate: makes a runner.
        told: waits until the timing may begin; returns the seconds that all of it may take.
        clock: seconds from an arbitrary origin.

    Raises:
        InputError: a candidate refuses a batch size, which is found before anything is timed.
        BnDeployError: a candidate cannot be opened or does not run.
    """
    rows = _read(job.inputs)
    draw = np.random.default_rng([job.options.seed, job.process])
    memory, gpu = [resident_bytes()], gpu_bytes() if job.probe else None
    with ExitStack() as stack:
        # Where a network's memory comes to lie depends on what was opened before it: in each process anew.
        runners: dict[int, Runner] = {}
        for place in map(int, draw.permutation(len(job.candidates))):
            runners[place] = stack.enter_context(open_candidate(job.candidates[place]))
        memory.append(resident_bytes())
        ordered = [runners[place] for place in range(len(job.candidates))]
        feeds = {
            batch: {name: np.resize(array, (batch, *array.shape[1:])) for name, array in rows.items()}
            for batch in job.options.batch_sizes
        }
        _check_batches(job.candidates, ordered, feeds)
        yield {"event": "opened", "about": [_about(runner) for runner in ordered]}
        deadline = told() + clock()
        yield {"event": "started", "overhead_s": measure.overhead_s()}
        if job.probe:
            for given in feeds.values():
                infer(ordered[0], given)
            memory.append(resident_bytes())
        else:
            evict = _evictions(job, ordered, stack)
            yield from _cells(
                job,
                ordered,
                rows,
                feeds=feeds,
                evict=evict,
                draw=draw,
                deadline=deadline,
                clock=clock,
            )
        yield {
            "event": "done",
            "census": [_census(runner) for runner in ordered] if job.describe else None,
            "memory": [*memory, peak_bytes()] if job.probe else None,
            "gpu_memory": [gpu, gpu_bytes()] if job.probe and ordered[0].device != "cpu" else None,
        }


def _read(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _check_batches(
    candidates: Sequence[Candidate], runners: Sequence[Runner], feeds: Mapping[int, Feeds]
) -> None:
    for candidate, runner in zip(candidates, runners, strict=True):
        for batch, given in feeds.items():
            try:
                runner.load(given)
            except InputError as error:
                raise InputError(f"{candidate.name} does not take batch size {batch}: {error}") from error


def _about(runner: Runner) -> Event:
    return {
        "provider": runner.provider,
        "device": runner.device,
        "precision": runner.precision.value,
        **asdict(facts(runner)),
    }


def _census(runner: Runner) -> dict[str, int] | None:
    census = loaded_census(runner)
    return None if census is None else dict(census)


def _cells(
    job: Job,
    runners: Sequence[Runner],
    rows: Mapping[str, Array],
    *,
    feeds: Mapping[int, dict[str, Array]],
    evict: Sequence[Call | None],
    draw: np.random.Generator,
    deadline: float,
    clock: Clock,
) -> Iterator[Event]:
    """Every batch size and scope; what one leaves of its time goes to those after it."""
    grid = [(batch, scope) for batch in job.options.batch_sizes for scope in job.options.scopes]
    for index, (batch, scope) in enumerate(grid):
        rotation = Rotation(rows, batch) if job.options.regime == "cold" else None
        cells = [
            _cell(runner, scope, feeds[batch], rotation, own)
            for runner, own in zip(runners, evict, strict=True)
        ]
        for cell in cells:
            cell.warm_up(job.options.warmup_s, clock)
        until = clock() + max(0.0, deadline - clock()) / (len(grid) - index)
        unserved = _take(job.options, cells, until, draw, clock)
        yield {
            "event": "cell",
            "batch": batch,
            "scope": scope,
            "runs": [
                {
                    "blocks": cell.blocks,
                    "samples_ns": [max(1, round(sample * 1e9)) for sample in cell.samples_s],
                    "warmup_calls": cell.warmup_calls,
                    "warmup_ns": round(cell.warmup_s * 1e9),
                    "unserved": lost,
                }
                for cell, lost in zip(cells, unserved, strict=True)
            ],
        }


def _evictions(job: Job, runners: Sequence[Runner], stack: ExitStack) -> list[Call | None]:
    """What empties the caches of where each runner computes, for those that do not on the CPU."""
    if job.options.regime != "cold" or all(runner.device == "cpu" for runner in runners):
        return [None] * len(runners)
    caches = stack.enter_context(GpuCaches())
    return [None if runner.device == "cpu" else caches.evict for runner in runners]


def _cell(
    runner: Runner, scope: Scope, feeds: dict[str, Array], rotation: Rotation | None, evict: Call | None
) -> Cell:
    if rotation is None:
        return Cell(measure.call_of(scope, runner, feeds))
    own = dict(feeds)
    place: Mapping[Scope, Callable[[Feeds], object]] = {
        "compute": runner.load,
        "d2h": lambda given: infer(runner, given),
    }
    return Cell(measure.call_of(scope, runner, own), cold(rotation, own, place.get(scope), evict))


def _take(
    options: MeasureOptions, cells: Sequence[Cell], until: float, draw: np.random.Generator, clock: Clock
) -> list[int]:
    """Fills the cells with samples; returns how many requests of each were never answered."""
    if options.rate_per_s is None:
        measure.take_turns(cells, until=until, rounds=options.rounds, order=draw, clock=clock)
        return [0] * len(cells)
    seconds = max(0.0, until - clock()) / (SEGMENTS * len(cells))
    unserved = [0] * len(cells)
    for _ in range(SEGMENTS):
        for place in map(int, draw.permutation(len(cells))):
            cell = cells[place]
            call: Call = cell.call
            call()
            latencies, lost = serve(
                call, rate_per_s=options.rate_per_s, seconds=seconds, draw=draw, clock=clock
            )
            cell.samples_s += latencies
            cell.blocks.append(len(latencies))
            unserved[place] += lost
    return unserved
