"""Runs an ONNX file by ONNX's reference implementation, node by node, and in another type if asked for.

Nothing is held that is not needed any more: neither what lies between two nodes nor a large weight, which is
read where its node runs. A file of any size runs in the memory of its largest steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from bn_deploy.backends.base import Array
from bn_deploy.errors import Inconclusive, first_line
from bn_deploy.onnxfile.stored import Stored
from bn_deploy.verify.operators import OPERATORS

NARROW = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
"""The floating-point types narrower than float64 in which networks compute."""

_ROUNDOFFS = {
    onnx.TensorProto.BFLOAT16: 2.0**-8,
    onnx.TensorProto.FLOAT16: 2.0**-11,
    onnx.TensorProto.FLOAT: 2.0**-24,
    onnx.TensorProto.DOUBLE: 2.0**-53,
}
"""By how much rounding changes a number at most, relative to it."""

_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


@dataclass(frozen=True)
class _Step:
    """One node: what it reads, also inside of it, and what nothing reads after it."""

    node: onnx.NodeProto
    evaluator: ReferenceEvaluator
    reads: tuple[str, ...]
    frees: tuple[str, ...]


class Evaluation:
    """An ONNX file, ready to run.

    Args:
        stored: the file.
        replaced: types that take part as `real` instead.
        real: the type of ONNX that takes their place.
        shaken: where the numbers come from by which every weight is moved, by half a unit in the last place
            of its own type at most, as if it had been rounded once; None moves nothing.

    Raises:
        Inconclusive: the reference implementation does not know an operator, or one draws random numbers.
    """

    def __init__(
        self,
        stored: Stored,
        replaced: Collection[int] = (),
        real: int = onnx.TensorProto.DOUBLE,
        shaken: np.random.Generator | None = None,
    ) -> None:
        proto = onnx.ModelProto()
        proto.CopyFrom(stored.proto)
        self._shaken = shaken
        self._given = {t.name: t.data_type for t in proto.graph.initializer}
        large = [t for t in proto.graph.initializer if t.name in stored.weights]
        self._kinds = {t.name: real if t.data_type in replaced else t.data_type for t in large}
        for tensor in large:
            proto.graph.initializer.remove(tensor)
        retype(proto, replaced, real)
        self._large = stored.weights
        self._small = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
        self.inputs = {v.name: v for v in proto.graph.input if v.name not in {*self._small, *self._large}}
        self._outputs = [value.name for value in proto.graph.output]
        self._steps = _steps(proto, set(self._outputs))

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs.

        Args:
            feeds: an array for each input, of any real type.

        Raises:
            Inconclusive: a node does not run.
        """
        known: dict[str, Array] = {
            name: array.astype(
                onnx.helper.tensor_dtype_to_np_dtype(self.inputs[name].type.tensor_type.elem_type)
            )
            for name, array in feeds.items()
        }
        for step in self._steps:
            given = {name: self._value(name, known) for name in step.reads}
            try:
                with np.errstate(all="ignore"):
                    results = list(step.evaluator.run(None, given))
            except Exception as error:  # the reference implementation raises whatever its operators raise
                raise _unknown(step.node, error) from error
            known.update(zip(filter(None, step.node.output), results, strict=True))
            for name in step.frees:
                known.pop(name, None)
        return [np.asarray(self._value(name, known)) for name in self._outputs]

    def _value(self, name: str, known: Mapping[str, Array]) -> Array:
        if name in known:
            return known[name]
        weight = self._small[name] if name in self._small else self._large[name]
        if name in self._kinds:
            weight = weight.astype(onnx.helper.tensor_dtype_to_np_dtype(self._kinds[name]), copy=False)
        roundoff = _ROUNDOFFS.get(self._given[name])
        if self._shaken is None or roundoff is None:
            return weight
        moves = self._shaken.uniform(-roundoff, roundoff, weight.shape)
        return np.asarray(weight * (1 + moves), weight.dtype)


def retype(model: onnx.ModelProto, replaced: Collection[int], real: int) -> None:
    """Lets every tensor, value and cast of a type in `replaced` be of the type `real`."""
    bodies: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        if isinstance(body, onnx.GraphProto):
            for tensor in body.initializer:
                _retype_tensor(tensor, replaced, real)
            for value in (*body.input, *body.output):
                if value.type.tensor_type.elem_type in replaced:
                    value.type.tensor_type.elem_type = real
        del body.value_info[:]
        for node in body.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _retype_tensor(attribute.t, replaced, real)
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i in replaced:
                    attribute.i = real
                bodies += _graphs(attribute)


def _retype_tensor(tensor: onnx.TensorProto, replaced: Collection[int], real: int) -> None:
    if tensor.data_type in replaced:
        array = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(real))
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))


def _graphs(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def _steps(proto: onnx.ModelProto, kept: Collection[str]) -> list[_Step]:
    """One step a node; what is in `kept` is not freed."""
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opsets.setdefault("", opsets.get("ai.onnx", 1))
    functions: list[Any] = []
    for function in proto.functions:
        functions.append(ReferenceEvaluator(function, functions=list(functions), new_ops=OPERATORS))
    reads = [tuple(dict.fromkeys(_reads(node))) for node in proto.graph.node]
    last = {name: index for index, names in enumerate(reads) for name in names}
    steps = []
    for index, node in enumerate(proto.graph.node):
        if node.op_type in _RANDOM:
            raise Inconclusive(f"{node.op_type} ({node.name or node.output[0]}) draws random numbers")
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        try:
            graph = onnx.helper.make_graph([node], "node", [], made)
            evaluator = ReferenceEvaluator(graph, opsets=opsets, functions=functions, new_ops=OPERATORS)
        except Exception as error:  # likewise
            raise _unknown(node, error) from error
        unread = [name for name in node.output if name not in last]
        frees = [
            name for name in (*reads[index], *unread) if last.get(name, index) == index and name not in kept
        ]
        steps.append(_Step(node, evaluator, reads[index], tuple(frees)))
    return steps


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The names that a node reads from the graph around it, also inside of the graphs in it."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in _graphs(attribute):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own.update(name for inner in graph.node for name in inner.output)
            inside = (
                *(name for inner in graph.node for name in _reads(inner)),
                *(v.name for v in graph.output),
            )
            yield from (name for name in inside if name and name not in own)


def _unknown(node: onnx.NodeProto, error: BaseException) -> Inconclusive:
    called = node.name or ", ".join(filter(None, node.output))
    return Inconclusive(
        f"ONNX's reference implementation does not run {node.op_type} ({called}): {first_line(error)}"
    )
