"""What vouches for a candidate: speed is told only of networks that compute the same.

A candidate of a run folder is vouched for by parity.json, if that is about the very files that are there now.
What it does not cover is compared on the spot, on the first rows that will be timed, as two files are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json
from bn_deploy.backends import backend
from bn_deploy.backends.base import Array
from bn_deploy.bench.candidate import Candidate
from bn_deploy.errors import BnDeployError, InputError, RunFolderError
from bn_deploy.onnxfile.stored import read
from bn_deploy.pipeline.worker import open_candidate
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Precision, Stage, typed_stage
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence
from bn_deploy.verify.files import ROWS, drawn, fixed_rows, in_float64, running, same_boundary
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.tolerance import number_class

STAGES: Mapping[tuple[str, str], str] = {
    ("torch", "custom"): Stage.TRAINED.value,
    ("torch", "native"): Stage.CONVERTED.value,
    ("torch", "folded"): Stage.FOLDED.value,
    ("ort", "native"): Stage.NATIVE.value,
    ("ort", "folded"): Stage.ONNX.value,
    ("trt", "folded"): Stage.ENGINE.value,
    **{
        ("trt", f"folded.{one.value}"): typed_stage(Stage.ENGINE, one)
        for one in Precision
        if one is not Precision.FP32
    },
}
"""What parity.json calls a backend's form."""

UNVERIFIED = "unverified"
_BASE = "native"


@dataclass(frozen=True)
class Vouched:
    """Who may be timed.

    Attributes:
        by: what vouches for each candidate, by name.
        against: what speaks against the others, by name.
    """

    by: dict[str, str] = field(default_factory=dict)
    against: dict[str, str] = field(default_factory=dict)


def nobody(candidates: Sequence[Candidate]) -> Vouched:
    """Nothing vouches for anybody, because the user asked for nothing."""
    return Vouched({candidate.name: UNVERIFIED for candidate in candidates})


def vouch(
    candidates: Sequence[Candidate], rows: Mapping[str, Array], reference: Path, run: RunFolder | None = None
) -> Vouched:
    """Finds out for each candidate whether it computes what `reference` computes.

    Args:
        candidates: what is to be timed.
        rows: each input by name, its rows on the first axis.
        reference: an ONNX file; its float64 run is the arbiter.
        run: the folder whose parity.json may vouch.
    """
    vouched = Vouched()
    parity = _recorded(run) if run else None
    passes = {} if parity is None else {s.stage: next(parity.faults(s), None) for s in parity.stages}
    rest = []
    for candidate in candidates:
        stage = STAGES.get((candidate.backend, candidate.label))
        fault = passes.get(stage) if stage else None
        if fault is not None:
            vouched.against[candidate.name] = fault
        elif stage in passes and not candidate.running.cuda_graph:
            vouched.by[candidate.name] = "parity.json"
        else:  # also what was verified without a graph: a recording is compared as it will be timed
            rest.append(candidate)
    for candidate in rest:
        try:
            fault = _compared(candidate, rows, reference)
        except BnDeployError as error:
            fault = f"cannot be compared: {error}"
        if fault is None:
            vouched.by[candidate.name] = f"{ROWS} rows"
        else:
            vouched.against[candidate.name] = fault
    order = [candidate.name for candidate in candidates]
    return Vouched(
        *({name: said[name] for name in order if name in said} for said in (vouched.by, vouched.against))
    )


def _recorded(run: RunFolder) -> Parity | None:
    """The run folder's comparison; None if there is none of the files that are there now."""
    if run.find(kinds.PARITY) is None:
        return None
    try:
        return Parity.from_json(read_json(run.require(kinds.PARITY).path))
    except RunFolderError:
        return None  # of files that have been replaced since
    except InputError as error:
        raise InputError(f"{run.path(kinds.PARITY)}: {error}") from error


def _compared(candidate: Candidate, rows: Mapping[str, Array], reference: Path) -> str | None:
    """The first fault of a candidate on the first ROWS rows; None if there is none."""
    stored = read(reference)
    feeds = {name: array[:ROWS] for name, array in rows.items()}
    with ExitStack() as stack:
        base = stack.enter_context(backend("ort").open(reference, threads=1))
        runner = stack.enter_context(open_candidate(candidate))
        same_boundary(base, runner)
        size = fixed_rows(base.inputs)
        forms = [running(_BASE, base, feeds), running(candidate.name, runner, feeds)]
        exact = in_float64(stored, feeds, size)
        places = np.arange(min(len(array) for array in feeds.values()))
        classes = {number_class(form.precision) for form in forms}
        parity = compare(
            forms,
            exact,
            places,
            exact(places).argmax(axis=1),  # nobody asks for the right answers, only for the same ones
            batch=ROWS,
            evidence=Evidence(
                partly=True,
                draws={c.name: drawn(stored, c.unit, feeds, size) for c in classes if not c.fixed_steps},
            ),
        )
    return next(parity.faults(parity.stages[-1]), None)
