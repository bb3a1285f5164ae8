"""Compares two ONNX files that must compute the same, on random and on boundary inputs, in float64.

ONNX's own reference implementation runs both with all floating-point numbers widened to float64, and the
first as it is, too: how far its own type takes it from float64 is what rounding explains. The second passes
when, widened, it is at most FACTOR times as far away: folding rounds each new weight once. Where that does
not suffice, what it does to round the first file's weights once more is counted as well. Differences are
relative to the size of the output that they are in, so that no probe hides another one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import numpy as np
import onnx
from onnx import TensorProto

from bn_deploy.backends.base import Array
from bn_deploy.errors import CheckFailed, Inconclusive
from bn_deploy.onnxfile.stored import Stored, read
from bn_deploy.verify.evaluation import NARROW, Evaluation
from bn_deploy.verify.parity import FACTOR

METHOD = "ONNX's reference implementation, both in float64"
"""How the comparison is made, in words."""

_PROBES = (
    # name, centre, spread of the random numbers around it
    ("zeros", 0.0, 0.0),
    ("ones", 1.0, 0.0),
    ("large", 100.0, 0.0),
    ("negative", -100.0, 0.0),
    ("tiny", 0.0, 1e-6),
    ("random", 0.0, 1.0),
    ("wide", 1.0, 10.0),
)
_ALONE = "random"
"""The probe that runs as a batch of one row, too."""

_UNKNOWN = 32
"""The size of dynamic axes other than the first."""

_FLOAT64_IN_FLOAT32 = 2.0**-29
"""The unit roundoff of float64, 2^-53, over that of float32, 2^-24."""

_DRAWS = 4
"""How often weights are moved at random to see what their rounding does."""

_REAL = NARROW | {TensorProto.DOUBLE}

Feeds = dict[str, Array]


@dataclass(frozen=True)
class PairParity:
    """How far apart two files are.

    Attributes:
        rms: of the difference between the two, both in float64, relative to the outputs.
        rms_own: what rounding explains: how far the first as it is is from the first in float64, likewise,
            and, where that does not suffice, from the first with its weights rounded once more.
        probes: how many inputs were tried.
        batches: in batches of how many rows; empty if the batch size is fixed.
        method: what computed both, in words.
    """

    rms: float
    rms_own: float
    probes: int
    batches: tuple[int, ...] = ()
    method: str = METHOD

    @property
    def bound(self) -> float:
        """The largest difference that passes: FACTOR times what rounding explains."""
        return FACTOR * self.rms_own

    @property
    def passed(self) -> bool:
        """Whether the difference is what rounding explains."""
        return self.rms <= self.bound

    def __str__(self) -> str:
        rows = f", in batches of {' and '.join(map(str, self.batches))}" if self.batches else ""
        return (
            f"checked on {self.probes} random and boundary inputs{rows}, by {self.method}: relative "
            f"difference {self.rms:.2e}, of which rounding explains up to {self.bound:.2e}"
        )


def compare_files(before: Path, after: Path, *, seed: int = 0) -> PairParity:
    """Runs both files on zeros, ones, large, negative, tiny and random values, borders included.

    Where the first axis is dynamic, all of them are the rows of one batch, and the random one is a batch of
    its own as well. Weights are read while their layer runs; neither file is held as a whole.

    Raises:
        ModelError: a file cannot be read.
        CheckFailed: their outputs differ in shape, or one gives NaN or infinity where the other does not.
        Inconclusive: they cannot be run; the message says why.
    """
    return compare_models(read(before), read(after), seed=seed)


def compare_models(before: Stored, after: Stored, *, seed: int = 0) -> PairParity:
    """As `compare_files`, for files that have been read."""
    exact, folded = (Evaluation(stored, NARROW) for stored in (before, after))
    plain = _Rounding(before)
    difference, rounding = _Distance(), _Distance()
    runs = []
    for rows, feeds, reference in _references(exact, np.random.default_rng(seed)):
        runs.append((rows, feeds, reference))
        difference.add_all(reference, folded.run(feeds), rows, alike=True)
        rounding.add_all(reference, plain.run(feeds), rows)
    if difference.count and not rounding.count:
        raise Inconclusive("the file itself gives NaN or infinity in its own type on every input")
    own = rounding.rms * plain.factor
    if difference.rms > FACTOR * own:
        # What rounds hardly anywhere has little to be judged by. What weights lose when stored counts, too.
        stored = _Distance()
        for draw in range(_DRAWS):
            shaken = Evaluation(before, NARROW, shaken=np.random.default_rng((seed, draw)))
            for rows, feeds, reference in runs:
                stored.add_all(reference, shaken.run(feeds), rows)
        own = float(np.hypot(own, stored.rms))
    batches = sorted({rows for rows, _, _ in runs if rows})
    return PairParity(difference.rms, own, sum(rows or 1 for rows, _, _ in runs), tuple(batches))


class _Rounding:
    """The first file as it is; what it rounds is the difference to float64 times `factor`.

    A double-precision file has no wider type to be judged by. Rounding errors are in proportion to the unit
    roundoff, so they are known from float32, and twice as large, since both files round when compared.
    """

    def __init__(self, before: Stored) -> None:
        inputs = [value.type.tensor_type.elem_type for value in before.proto.graph.input]
        weights = [tensor.data_type for tensor in before.proto.graph.initializer]
        double = TensorProto.DOUBLE in (inputs or weights) and not NARROW & {*inputs}
        self.factor = 2.0 * _FLOAT64_IN_FLOAT32 if double else 1.0
        replaced = {TensorProto.DOUBLE} if double else set()
        self.run = Evaluation(before, replaced, TensorProto.FLOAT).run


class _Distance:
    """The root-mean-square of relative differences, gathered part by part."""

    def __init__(self) -> None:
        self._square, self.count = 0.0, 0

    def add_all(
        self, references: list[Array], candidates: list[Array], rows: int | None, *, alike: bool = False
    ) -> None:
        """Takes in all outputs for one batch.

        Args:
            references: the outputs in float64 of the first file.
            candidates: those that are compared with them.
            rows: of how many rows the batch is; None if it has none.
            alike: whether both must have the same shapes, and the same numbers finite.

        Raises:
            CheckFailed: they must and have not.
        """
        if alike and [a.shape for a in references] != [a.shape for a in candidates]:
            raise CheckFailed("the two files give outputs of different shapes")
        for one, other in zip(references, candidates, strict=True):
            if alike and not np.array_equal(np.isfinite(one), np.isfinite(other)):
                raise CheckFailed("one file gives NaN or infinity where the other does not")
            for part in _parts(one, rows):
                self._add(one[part], other[part])

    def _add(self, reference: Array, candidate: Array) -> None:
        """Takes in one output for one probe; what is not finite in either does not count."""
        one, other = (np.asarray(array).astype(np.float64) for array in (reference, candidate))
        seen = np.isfinite(one) & np.isfinite(other)
        size = float(np.sqrt(np.mean(np.square(one[seen])))) if seen.any() else 0.0
        self._square += float(np.square((other - one)[seen] / (size or 1.0)).sum())
        self.count += int(seen.sum())

    @property
    def rms(self) -> float:
        return float(np.sqrt(self._square / self.count)) if self.count else 0.0


def _parts(output: Array, rows: int | None) -> list[slice | EllipsisType]:
    """The whole of an output, or what each row of a batch has given."""
    if rows and output.ndim and output.shape[0] == rows:
        return [slice(row, row + 1) for row in range(rows)]
    return [...]


def _references(
    network: Evaluation, generator: np.random.Generator
) -> Iterator[tuple[int | None, Feeds, list[Array]]]:
    """Each input, what it gives, and of how many rows it is where that is free; a file may lie about that."""
    inputs = list(network.inputs.values())
    batched = _batched(inputs)
    probes: dict[str, Feeds] = {}
    for name, centre, spread in _PROBES:
        probes[name] = {
            v.name: _filled(v, centre + spread * generator.standard_normal(_shape(v, batched)))
            for v in inputs
        }
    if batched:
        yield 1, probes[_ALONE], network.run(probes[_ALONE])
        joined = {
            v.name: np.concatenate([feeds[v.name] for feeds in probes.values()])
            if v.name in batched
            else probes[_ALONE][v.name]
            for v in inputs
        }
        try:
            results = network.run(joined)
        except Inconclusive:
            del probes[_ALONE]
        else:
            yield len(probes), joined, results
            return
    for feeds in probes.values():
        yield (1 if batched else None), feeds, network.run(feeds)


def _batched(inputs: Sequence[onnx.ValueInfoProto]) -> set[str]:
    """The inputs whose first axis is dynamic; none if that size is also one of another axis."""
    for value in inputs:
        kind = value.type.tensor_type
        if not kind.HasField("shape") or kind.elem_type == TensorProto.STRING:
            raise Inconclusive(f"the input {value.name} is no tensor of numbers with a known rank")
    sizes = {value.name: list(value.type.tensor_type.shape.dim) for value in inputs}
    first = {name: dims[0] for name, dims in sizes.items() if dims and not dims[0].HasField("dim_value")}
    symbols = {dim.dim_param for dim in first.values()} - {""}
    if any(dim.dim_param in symbols for dims in sizes.values() for dim in dims[1:]):
        return set()
    return set(first)


def _shape(value: onnx.ValueInfoProto, batched: Collection[str]) -> tuple[int, ...]:
    """The shape of one row of an input, or of all of it if it has no rows."""
    return tuple(
        size.dim_value
        if size.HasField("dim_value")
        else 1
        if axis == 0 and value.name in batched
        else _UNKNOWN
        for axis, size in enumerate(value.type.tensor_type.shape.dim)
    )


def _filled(value: onnx.ValueInfoProto, drawn: Array | float) -> Array:
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    numbers = np.asarray(drawn)
    # Integers may be indices, which must not leave their range: zeros and ones are in most.
    return (numbers if value.type.tensor_type.elem_type in _REAL else numbers > 0).astype(kind)
