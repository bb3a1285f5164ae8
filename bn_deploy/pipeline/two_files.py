"""Compares any two models with the same inputs and outputs: two ONNX files, or an ONNX file and an engine."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from bn_deploy.artifact import sha256_file
from bn_deploy.backends import backend
from bn_deploy.backends.base import Runner, check_feeds
from bn_deploy.backends.options import AS_IT_IS, RunOptions
from bn_deploy.bench.environment import environment
from bn_deploy.data.batches import slices
from bn_deploy.errors import InputError, ModelError
from bn_deploy.onnxfile.stored import read
from bn_deploy.pipeline.evidence import with_graphs
from bn_deploy.spec import Track, silent
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence
from bn_deploy.verify.files import (
    ROWS,
    drawn,
    fixed_rows,
    in_float64,
    random_feeds,
    read_feeds,
    rows_of,
    same_boundary,
)
from bn_deploy.verify.files import running as as_form
from bn_deploy.verify.lint import batch_statistics
from bn_deploy.verify.parity import Limits, Parity
from bn_deploy.verify.tolerance import number_class
from bn_deploy.verify.tripwires import Trip

_NAMES = ("before", "after")
_BACKENDS = {".onnx": "ort", ".plan": "trt", ".engine": "trt"}


def verify_files(
    before: Path,
    after: Path,
    *,
    inputs: Path | None = None,
    threads: int = 1,
    limits: Limits | None = None,
    running: RunOptions = AS_IT_IS,
    track: Track = silent,
) -> Parity:
    """Compares `after` with `before`, whose float64 run by ONNX's reference implementation is the arbiter.

    Args:
        before: an ONNX file.
        after: an ONNX file or an engine.
        inputs: a .npz file with an array for each input; without it, ROWS rows of random numbers.
        threads: CPU threads of each backend that has them.
        limits: what the user asks for on top of the gate.
        running: what else is asked of what runs `after`.
        track: follows the comparison.

    Raises:
        InputError: a name that is neither, inputs that do not fit, or an option that means nothing to what
            runs `after`.
        ModelError: a file cannot be loaded, or the two do not take and give the same.
        NotAvailable: a runtime is missing.
        Inconclusive: ONNX's reference implementation does not run `before`.
    """
    if before.suffix != ".onnx" or after.suffix not in _BACKENDS:
        raise InputError(
            f"cannot compare {before} with {after}: give MODEL.onnx and MODEL.onnx or MODEL.plan"
        )
    stored = read(before)
    with ExitStack() as stack:
        runners: list[Runner] = [
            stack.enter_context(backend(_BACKENDS[path.suffix]).open(path, threads=threads, running=asked))
            for path, asked in ((before, AS_IT_IS), (after, running))
        ]
        same_boundary(*runners)
        feeds = read_feeds(inputs, runners[0].inputs) if inputs else random_feeds(runners[0].inputs)
        rows, size = np.arange(rows_of(feeds)), fixed_rows(runners[0].inputs)
        first = np.zeros(size or 1, int)
        check_feeds(runners[0].inputs, {name: array[first] for name, array in feeds.items()})
        forms = [as_form(name, one, feeds) for name, one in zip(_NAMES, runners, strict=True)]
        if forms[0].precision != "fp32":
            raise ModelError(f"{before} computes in {forms[0].precision}; the first model must be in fp32")
        reference = in_float64(stored, feeds, size)
        # Nobody knows the right answers: what the first model says in float64 is taken for right.
        labels = np.concatenate([reference(rows[part]).argmax(axis=1) for part in slices(len(rows), ROWS)])
        parity = compare(
            forms,
            reference,
            rows,
            labels,
            batch=ROWS,
            evidence=Evidence(
                partly=True,
                draws={"fp32": drawn(stored, number_class("fp32").unit, feeds, size)},
                trips=[
                    Trip(name, "batch statistics", seen)
                    for name, path in zip(_NAMES, (before, after), strict=True)
                    if path.suffix == ".onnx"
                    for seen in batch_statistics(read(path).proto)
                ],
                uncertified=dict.fromkeys(_NAMES, "proofs need the network in torch"),
            ),
            digests={str(path): sha256_file(path) for path in (before, after)},
            dataset=str(inputs) if inputs else "random inputs",
            track=track,
        )
        parity = with_graphs(parity, dict(zip(_NAMES, runners, strict=True)))
    return replace(parity, environment=environment(), limits=limits or Limits())
