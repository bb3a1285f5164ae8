"""A worker process for tests: `python -m tests.bench.work`. A candidate's source says what happens."""

from __future__ import annotations

import os
import sys

from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.worker import work
from bn_deploy.errors import NotAvailable
from tests.fakes import FakeRunner


class Busy(FakeRunner):
    """Adds up a few thousand numbers in a call, or as many as it is told."""

    def __init__(self, candidate: Candidate) -> None:
        super().__init__(backend=candidate.backend)
        self.count = int(candidate.source.form)

    def enqueue(self) -> None:
        super().enqueue()
        sum(range(self.count))


def open_candidate(candidate: Candidate) -> Busy:
    what = candidate.source.form
    if what == "missing":
        raise NotAvailable("there is no such runtime here")
    if what == "crash":
        print("noise", "the runtime has crashed", sep="\n", file=sys.stderr, flush=True)
        os._exit(3)
    if what == "threads":
        raise NotAvailable(f"threads {os.environ['OMP_NUM_THREADS']}, {os.environ.get('OMP_PROC_BIND')}")
    return Busy(candidate)


if __name__ == "__main__":
    work(sys.stdin, open_candidate, sys.stdout)
