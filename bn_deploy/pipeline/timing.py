"""Times candidates that somebody vouches for: threads chosen, memory noted, every process run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array, Runner
from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.environment import environment
from bn_deploy.bench.measure import CLOCK
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.processes import worker_command
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.replicate import Memory, memory, replicate
from bn_deploy.bench.threads import OpenWith, calibrate, settings
from bn_deploy.errors import CheckFailed
from bn_deploy.pipeline.subjects import Subject
from bn_deploy.pipeline.vouching import Vouched
from bn_deploy.pipeline.worker import open_candidate
from bn_deploy.spec import Track, announced

WORKER = worker_command("bn_deploy.pipeline.worker")
_ROWS = 2048
"""How many rows of the data are fed, in turn."""


@dataclass(frozen=True)
class Benched:
    """What was measured, and what was not.

    Attributes:
        record: the measurement.
        unavailable: backends that could not be measured here, each with the reason.
        refused: candidates that do not compute the same, each with what is wrong; they were not timed.
    """

    record: LatencyRecord
    unavailable: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """1 if a candidate does not compute the same, else 0."""
        return 1 if self.refused else 0


def time_all(
    subject: Subject,
    options: MeasureOptions,
    *,
    threads: int | Mapping[str, int] | None,
    vouch: Callable[[Sequence[Candidate]], Vouched],
    track: Track,
    command: Sequence[str] = WORKER,
) -> Benched:
    """Times the candidates that somebody vouches for, and the first backend's last one against itself.

    Args:
        subject: what to time.
        options: how.
        threads: CPU threads of each backend that has them, or of each by name; None tries which is best, for
            two seconds a backend; a measurement that is to be quick takes one.
        vouch: finds out who may be timed.
        track: follows the measurement.
        command: starts a worker process.

    Raises:
        CheckFailed: not one candidate computes what the others do.
        BnDeployError: a candidate cannot be opened or does not run.
    """
    began, where = CLOCK(), environment()
    candidates = [replace(c, threads=1 if _computes_on_cpu(c) else None) for c in subject.candidates]
    vouched = announced(track, "comparing", lambda: vouch(candidates))
    candidates = [candidate for candidate in candidates if candidate.name in vouched.by]
    if not candidates:
        who, why = next(iter(vouched.against.items()))
        raise CheckFailed(f"nothing to time: no candidate computes the same; {who}: {why}")
    if options.quick and threads is None:
        threads = 1
    choices: dict[str, object] = {}
    taken: list[Memory] = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs.npz"
        np.savez(inputs, **{name: array[:_ROWS] for name, array in subject.rows.items()})  # type: ignore[arg-type]
        if threads is None:
            candidates, choices = _calibrated(candidates, subject.rows, options, track)
        else:
            given = threads if isinstance(threads, Mapping) else {c.backend: threads for c in candidates}
            candidates = [
                replace(c, threads=given.get(c.backend, 1) if c.threads else None) for c in candidates
            ]
        if not options.quick:
            lasts = _last_of_each(candidates)
            taken += _memory_of(lasts, inputs, options, command, track, alone=bool(where["gpu_name"]))
        found = replicate(
            with_twin(candidates),
            inputs,
            options,
            command=command,
            deadline=began + options.budget_s,
            track=track,
        )
    record = LatencyRecord(
        environment=where,
        options=options,
        artifacts=subject.artifacts,
        dataset=subject.dataset,
        results=found.results,
        parity=vouched.by,
        overhead_s=found.overhead_s,
        conditions=found.conditions,
        memory=tuple(taken),
        choices=choices,
        interrupted=found.interrupted,
    )
    return Benched(record, dict(subject.unavailable), vouched.against)


def with_twin(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates and one of them again: the first backend's last, which the others are compared with."""
    own = [candidate for candidate in candidates if candidate.backend == candidates[0].backend]
    return [*candidates, own[-1].twin()]


def _computes_on_cpu(candidate: Candidate) -> bool:
    return candidate.source.kind != "plan"


def _last_of_each(candidates: Sequence[Candidate]) -> list[Candidate]:
    return list({candidate.backend: candidate for candidate in candidates}.values())


def _memory_of(
    candidates: Sequence[Candidate],
    inputs: Path,
    options: MeasureOptions,
    command: Sequence[str],
    track: Track,
    *,
    alone: bool,
) -> list[Memory]:
    """What each takes in its own process; nothing is timed, so they may run side by side.

    On a GPU only one by one: the memory that others take there cannot be told apart.
    """
    probe = partial(memory, inputs=inputs, options=options, command=command)
    with ThreadPoolExecutor(1 if alone else os.cpu_count()) as pool:
        return list(track(pool.map(probe, candidates), "memory", len(candidates)))


def _calibrated(
    candidates: Sequence[Candidate], rows: Mapping[str, Array], options: MeasureOptions, track: Track
) -> tuple[list[Candidate], dict[str, object]]:
    """Every candidate with the threads that suit its backend's last one at the smallest batch size."""
    batch = min(options.batch_sizes)
    feeds = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in rows.items()}
    lasts = [c for c in _last_of_each(candidates) if c.threads and not backend(c.backend).compiles]
    found = {}
    for last in track(lasts, "choosing threads", len(lasts)):
        found[last.backend] = calibrate(
            _opening(last), feeds, among=settings(spins=backend(last.backend).spins)
        )
    chosen = [
        replace(c, threads=found[c.backend].threads, spinning=found[c.backend].spinning)
        if c.backend in found
        else c
        for c in candidates
    ]
    return chosen, {name: choice.to_json() for name, choice in found.items()}


def _opening(candidate: Candidate) -> OpenWith:
    """Opens a candidate with other threads."""

    def with_threads(threads: int, spinning: bool) -> Runner:
        return open_candidate(replace(candidate, threads=threads, spinning=spinning))

    return with_threads
