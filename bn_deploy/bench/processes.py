"""Starts the worker processes of a measurement, one after the other, and gathers what they send.

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
from typing import IO, Any, cast

import bn_deploy
from bn_deploy import errors
from bn_deploy.bench.job import Job
from bn_deploy.errors import BnDeployError, ModelError

Command = Sequence[str]
"""What starts a worker: it reads one job from its standard input and writes events to its standard output."""

THREAD_VARIABLES: tuple[str, ...] = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""How numerical libraries are told to use so many threads; a user's own settings must not leak in."""


def run_worker(command: Command, job: Job) -> Iterator[dict[str, Any]]:
    """Runs one worker and yields its events as they come; the process is gone when the iterator is.

    Raises:
        BnDeployError: the worker reported one of our errors; it is raised again here.
        ModelError: the worker died, as a runtime that crashes makes it.
    """
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, or one that the caller chose
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=_surroundings(job),
            encoding="utf-8",
        )
        try:
            with suppress(BrokenPipeError), cast("IO[str]", process.stdin) as stream:
                # One that has died already says why below.
                stream.write(json.dumps(job.to_json(), allow_nan=False) + "\n")
            last: dict[str, Any] = {}
            for line in cast("IO[str]", process.stdout):
                last = json.loads(line)
                if last["event"] == "failed":
                    raise _error(last["kind"])(last["message"])
                yield last
            status = process.wait()
            if last.get("event") != "done":
                raise ModelError(_obituary(job, status, complaints))
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


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
