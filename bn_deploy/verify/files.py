"""Two models that anybody made, as forms of a comparison: what they compute, in float64 and otherwise.

The inputs need not be images nor the outputs logits. A row stands for an image: its feeds are row i of each
input, and its logits are row i of every output, flattened, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from bn_deploy.backends.base import Array, Runner, infer
from bn_deploy.errors import InputError, ModelError
from bn_deploy.onnxfile.stored import Stored
from bn_deploy.spec import TensorSpec
from bn_deploy.verify.evaluation import NARROW, Evaluation
from bn_deploy.verify.evidence import Form, Reference

ROWS = 64
"""How many random rows are tried where no inputs are given."""

DRAWS = 8
"""How many times the weights are moved by a rounding each, to see what that does."""


def random_feeds(inputs: Sequence[TensorSpec], *, seed: int = 0) -> dict[str, Array]:
    """Standard normal numbers for inputs of floating type, zeros and ones for the others."""
    generator = np.random.default_rng(seed)
    feeds = {}
    for spec in inputs:
        drawn = generator.standard_normal(spec.bind(ROWS))
        feeds[spec.name] = np.asarray(
            drawn if np.issubdtype(np.dtype(spec.dtype), np.floating) else drawn > 0
        )
    return {spec.name: feeds[spec.name].astype(spec.dtype) for spec in inputs}


def read_feeds(path: Path, inputs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The inputs in a .npz file, under their names.

    Raises:
        InputError: it is no such file, or lacks an input.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            feeds = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError) as error:
        raise InputError(f"{path} is not a .npz file of arrays: {error}") from error
    for spec in inputs:
        if spec.name not in feeds:
            raise InputError(f"{path} has no array called {spec.name}; the models take {spec}")
    return {spec.name: np.ascontiguousarray(feeds[spec.name]).astype(spec.dtype) for spec in inputs}


def rows_of(feeds: Mapping[str, Array]) -> int:
    """How many rows the feeds have.

    Raises:
        InputError: not all as many, or none.
    """
    counts = {len(array) if array.ndim else 0 for array in feeds.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError(f"the inputs have {', '.join(map(str, sorted(counts)))} rows; all need as many")
    return counts.pop()


def same_boundary(a: Runner, b: Runner) -> None:
    """Refuses two models whose inputs or outputs differ in name or type.

    Raises:
        ModelError: they do.
    """
    for what, ours, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        one, other = ({(spec.name, spec.dtype) for spec in specs} for specs in (ours, theirs))
        if one != other:
            raise ModelError(
                f"the two models cannot be compared: the {what} are {', '.join(map(str, ours))} and "
                f"{', '.join(map(str, theirs))}"
            )


def running(name: str, runner: Runner, feeds: Mapping[str, Array]) -> Form:
    """A form whose images are row numbers into `feeds`.

    Args:
        name: what reports call it.
        runner: entered.
        feeds: every input, with the rows on the first axis.
    """
    outputs = [spec.name for spec in runner.outputs]

    def run(rows: Array) -> Array:
        results = infer(runner, {key: np.ascontiguousarray(array[rows]) for key, array in feeds.items()})
        return _flat([results[output] for output in outputs], len(rows))

    return Form(
        name,
        _chunked(run, fixed_rows(runner.inputs)),
        runner.backend,
        runner.provider,
        runner.precision.value,
    )


def fixed_rows(inputs: Sequence[TensorSpec]) -> int | None:
    """The batch size that a model is made for, or None if it takes any."""
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    return next((size for size in sizes if size is not None), None)


def _chunked(run: Reference, size: int | None) -> Reference:
    """`run` for any number of rows, though it takes `size` at a time; the last row fills the last batch."""
    if size is None:
        return run

    def chunked(rows: Array) -> Array:
        filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size)])
        parts = [run(filled[start : start + size]) for start in range(0, len(filled), size)]
        return np.concatenate(parts)[: len(rows)]

    return chunked


def in_float64(stored: Stored, feeds: Mapping[str, Array], size: int | None = None) -> Reference:
    """What a file computes in float64, by ONNX's reference implementation.

    Args:
        stored: the file.
        feeds: every input, with the rows on the first axis.
        size: the batch size that it is made for; None for any.

    Raises:
        Inconclusive: that implementation does not know an operator.
    """
    evaluation = Evaluation(stored, NARROW)

    def run(rows: Array) -> Array:
        return _flat(evaluation.run({key: array[rows] for key, array in feeds.items()}), len(rows))

    return _chunked(run, size)


def drawn(
    stored: Stored, unit: float, feeds: Mapping[str, Array], size: int | None = None
) -> tuple[Reference, ...]:
    """Runs in float64 with each weight moved by one unit roundoff, up or down by chance; always the same.

    Operators round, too, but that is in the float32 run that is measured.
    """
    return tuple(in_float64(_moved(stored, unit, seed), feeds, size) for seed in range(DRAWS))


def _moved(stored: Stored, unit: float, seed: int) -> Stored:
    generator = np.random.default_rng(seed)
    proto = onnx.ModelProto()
    proto.CopyFrom(stored.proto)
    weights = {name: _move(array, unit, generator) for name, array in stored.weights.items()}
    for tensor in proto.graph.initializer:
        if tensor.data_type in NARROW and tensor.name not in weights:
            array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(onnx.numpy_helper.from_array(_move(array, unit, generator), tensor.name))
    kinds = {name for name, array in weights.items() if array.dtype == np.float64}
    for tensor in proto.graph.initializer:
        if tensor.name in kinds:
            tensor.data_type = onnx.TensorProto.DOUBLE
    return replace(stored, proto=proto, weights=weights)


def _move(array: Array, unit: float, generator: np.random.Generator) -> Array:
    if not np.issubdtype(array.dtype, np.floating):
        return array
    signs = generator.integers(0, 2, array.shape) * 2 - 1
    return np.asarray(array.astype(np.float64) * (1 + signs * unit))


def _flat(outputs: Sequence[Array], rows: int) -> Array:
    """Every output, row by row.

    Raises:
        ModelError: an output has another number of rows than the inputs.
    """
    for output in outputs:
        if not output.ndim or len(output) != rows:
            raise ModelError(f"an output of shape {output.shape} has no row for each of {rows} input rows")
    return np.concatenate([np.asarray(o, np.float64).reshape(rows, -1) for o in outputs], axis=1)
