"""Starts the worker processes of a measurement, talks to them, and sees them off.

Each is a fresh interpreter: where the system puts its memory, its stack and its libraries is drawn anew, and
that moves the times of a network by per cents for as long as the process lives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import bn_deploy
from bn_deploy import errors
from bn_deploy.bench.job import Job
from bn_deploy.errors import BnDeployError, ModelError

Command = Sequence[str]
"""What starts a worker: see `bench.worker` for what it reads and writes."""

Event = dict[str, Any]

THREAD_VARIABLES: tuple[str, ...] = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""How numerical libraries are told to use so many threads; a user's own settings must not leak in."""


class Worker:
    """One fresh process: it opens its candidates at once, and times them when it is told to.

    Args:
        command: starts it.
        job: what it is to do.
    """

    def __init__(self, command: Command, job: Job) -> None:
        self._job = job
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the worker is
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, or one that the caller chose
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=_surroundings(job),
            encoding="utf-8",
        )
        self._tell(job.to_json())

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._complaints):
            with suppress(BrokenPipeError):  # what a dead one was never told
                cast("IO[Any]", stream).close()

    def opened(self) -> Event:
        """Waits until every candidate is open; what the worker says of them.

        Raises:
            BnDeployError: the worker reported one of our errors; it is raised again here.
            ModelError: the worker died, as a runtime that crashes makes it.
        """
        return self._next()

    def measure(self, seconds: float) -> Iterator[Event]:
        """Lets it go on for that long; yields each event as it comes.

        Raises:
            BnDeployError, ModelError: see `opened`.
        """
        self._tell({"seconds": float(seconds)})
        event: Event = {}
        while event.get("event") != "done":
            event = self._next()
            yield event

    def _tell(self, what: Mapping[str, Any]) -> None:
        stream = cast("IO[str]", self._process.stdin)
        with suppress(BrokenPipeError):  # one that has died says why when it is listened to
            stream.write(json.dumps(what, allow_nan=False) + "\n")
            stream.flush()

    def _next(self) -> Event:
        line = cast("IO[str]", self._process.stdout).readline()
        if not line:
            raise ModelError(_obituary(self._job, self._process.wait(), self._complaints))
        event: Event = json.loads(line)
        if event["event"] == "failed":
            raise _error(event["kind"])(event["message"])
        return event


def worker_command(module: str) -> list[str]:
    """The command that starts a module of this package in a fresh interpreter of the same kind."""
    return [sys.executable, "-m", module]


def _surroundings(job: Job) -> Mapping[str, str]:
    """The worker's environment: ours, with its threads as asked for, and this very package in its path."""
    threads = max([candidate.threads or 1 for candidate in job.candidates])
    here = str(Path(bn_deploy.__file__).parents[1])
    path = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_"))}
    return {**own, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONPATH": path}


def _error(kind: str) -> type[BnDeployError]:
    """One of our own errors by its name."""
    found = getattr(errors, kind, None)
    return found if isinstance(found, type) and issubclass(found, BnDeployError) else BnDeployError


def _obituary(job: Job, status: int, complaints: Any) -> str:
    """One line about a worker that ended without having finished."""
    complaints.seek(0)
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    last = f": {lines[-1].strip()}" if lines else ""
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return f"worker process {job.process} ended with {how} before it was done{last}"
