"""A fresh process of a measurement: `python -m bn_deploy.pipeline.worker`.

Talks through standard input and output; see `bench.worker`.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from bn_deploy.backends import backend
from bn_deploy.backends.base import Runner
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.worker import work
from bn_deploy.errors import InputError, NotAvailable
from bn_deploy.spec import Precision

FORMS: tuple[str, ...] = ("custom", "native", "folded")
"""The forms of a checkpoint's network, as tables call them: as trained by hand, torch's batch norms, none."""


def open_candidate(candidate: Candidate) -> Runner:
    """A runner for a candidate.

    Raises:
        NotAvailable: the backend cannot run here, or computes in another precision or elsewhere than asked.
        InputError: the source cannot be opened, or the backend does not take an option.
    """
    row = backend(candidate.backend)
    runner = row.open(
        opened(candidate.source),
        threads=candidate.threads or 1,
        spinning=candidate.spinning,
        precision=Precision(candidate.precision) if candidate.precision and row.precisions else None,
        running=candidate.running,
    )
    for what, asked, got in (
        ("in", candidate.precision, runner.precision.value),
        ("on", candidate.provider, runner.provider),
    ):
        if asked is not None and asked != got:
            raise NotAvailable(f"{candidate.name} was to compute {what} {asked}, and does {what} {got}")
    return runner


def opened(source: Source) -> Any:
    """What a backend takes for a source: a path, or a network with its boundary.

    Raises:
        InputError: it cannot be opened.
    """
    if source.kind in ("onnx", "plan"):
        return Path(source.path)
    if source.kind == "checkpoint" and source.form in FORMS:
        forms = _forms(source.path)
        # A copy is of no use to the caller, but two runners must not share one module's memory.
        from copy import deepcopy

        networks = {"custom": forms.trained, "native": forms.converted, "folded": forms.folded}
        return forms.bounded(deepcopy(networks[source.form]))
    raise InputError(f"nothing here opens {source}")


@cache
def _forms(path: str) -> Any:
    # Loads torch, which a process that times nothing of it does without.
    from bn_deploy.pipeline.forms import forms_of
    from bn_deploy.train.checkpoint import load_checkpoint

    return forms_of(load_checkpoint(path))


def main() -> int:
    """Does the job that comes in. Whatever else prints goes to standard error: the samples go home alone."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            work(sys.stdin, open_candidate, out)
        except KeyboardInterrupt:
            return 130  # the parent was interrupted as well, and tells the user
    return 0


if __name__ == "__main__":
    # Everything is closed and sent; taking the interpreter and its libraries down takes half a second more.
    os._exit(main())
