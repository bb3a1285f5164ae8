"""Compares two ONNX files that must compute the same, on random and on boundary inputs, in float64.

ONNX's own reference implementation runs both with all floating-point numbers widened to float64, and the
first as it is, too: how far its own type takes it from float64 is what rounding explains. The second passes
when, widened, it is at most FACTOR times as far away: folding rounds each new weight once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from bn_deploy.backends.base import Array
from bn_deploy.errors import CheckFailed, InputError, first_line
from bn_deploy.verify.parity import FACTOR

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
_ROWS = 3
_UNKNOWN = 32  # the size given to dynamic axes other than the first


@dataclass(frozen=True)
class PairParity:
    """How far apart two files are.

    Attributes:
        rms: of the difference between the two, both in float64.
        rms_own: of the difference between the first as it is and the first in float64.
        probes: how many inputs were tried.
    """

    rms: float
    rms_own: float
    probes: int

    @property
    def passed(self) -> bool:
        """Whether the difference is what rounding explains."""
        return self.rms <= FACTOR * self.rms_own


def compare_files(before: onnx.ModelProto, after: onnx.ModelProto, *, seed: int = 0) -> PairParity:
    """Runs both models on zeros, on large values of either sign and on random values.

    Raises:
        CheckFailed: their inputs or outputs differ, or one gives NaN or infinity where the other does not.
        InputError: the reference implementation cannot run them; the message says why.
    """
    wide_before, wide_after = widened(before), widened(after)
    difference: list[Array] = []
    own: list[Array] = []
    count = 0
    for feeds in _probes(before, np.random.default_rng(seed)):
        count += 1
        exact = _run(wide_before, _cast(wide_before, feeds))
        folded = _run(wide_after, _cast(wide_after, feeds))
        plain = _run(before, feeds)
        if [a.shape for a in exact] != [a.shape for a in folded]:
            raise CheckFailed("the two files give outputs of different shapes")
        for reference, candidate, rounded in zip(exact, folded, plain, strict=True):
            finite = np.isfinite(reference)
            if not np.array_equal(finite, np.isfinite(candidate)):
                raise CheckFailed("one file gives NaN or infinity where the other does not")
            difference.append((candidate - reference)[finite].ravel())
            kept = finite & np.isfinite(rounded)
            own.append((rounded - reference)[kept].ravel())
    return PairParity(_rms(difference), _rms(own), count)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every floating-point type narrower than float64 is float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for graph in _graphs(wide.graph):
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
        del graph.value_info[:]
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen_tensor(attribute.t)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                    attribute.i = onnx.TensorProto.DOUBLE
    return wide


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)


def _probes(model: onnx.ModelProto, generator: np.random.Generator) -> Iterator[dict[str, Array]]:
    """Inputs on the boundary (zeros, large of either sign) and within (random)."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    # Each probe is a constant and the spread of the random numbers around it.
    for centre, spread in ((0.0, 0.0), (100.0, 0.0), (-100.0, 0.0), (0.0, 1.0), (1.0, 10.0)):
        yield {
            value.name: _filled(value, centre + spread * generator.standard_normal(size=_shape(value)))
            for value in inputs
        }


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    sizes = value.type.tensor_type.shape.dim
    return tuple(
        size.dim_value if size.HasField("dim_value") else _ROWS if axis == 0 else _UNKNOWN
        for axis, size in enumerate(sizes)
    )


def _filled(value: onnx.ValueInfoProto, drawn: Array | float) -> Array:
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    numbers = np.asarray(drawn)
    # Integers may be indices, which must not leave their range: zeros and ones are in most.
    return (numbers if np.issubdtype(kind, np.floating) else numbers > 0).astype(kind)


def _cast(model: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """The feeds in the types that `model` takes."""
    kinds = {
        v.name: onnx.helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type) for v in model.graph.input
    }
    return {name: array.astype(kinds[name]) for name, array in feeds.items()}


def _run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    try:
        with np.errstate(all="ignore"):
            outputs = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # the reference implementation raises whatever its operators raise
        reason = first_line(error)
        raise InputError(f"cannot be checked: ONNX's reference implementation fails: {reason}") from error
    return [np.asarray(output).astype(np.float64) for output in outputs]


def _rms(parts: list[Array]) -> float:
    everything = np.concatenate(parts) if parts else np.zeros(0)
    return float(np.sqrt(np.mean(np.square(everything)))) if everything.size else 0.0
