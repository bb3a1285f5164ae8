"""What an ONNX graph computes in: operators and multiply-accumulates by number format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnx import TensorProto

from bn_deploy.spec import Precision

_FORMATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.DOUBLE: "fp64",
}
_CONVERSIONS = {"Cast", "CastLike", "QuantizeLinear", "DequantizeLinear", "Constant"}
"""What changes formats or computes nothing, and is counted apart."""

_PASSES = {"Cast"}
"""What may stand between a DequantizeLinear and its operator."""

_WANTED = {
    Precision.FP32: ({"fp32"},),
    Precision.FP16: ({"fp16"},),
    Precision.BF16: ({"bf16"},),
    Precision.INT8: ({"int8"},),
    Precision.INT8_FP16: ({"int8"}, {"fp16"}),
}
"""What a file in a precision must have; of each set one."""


@dataclass(frozen=True)
class DtypeCensus:
    """What a graph computes in.

    Attributes:
        operators: how many operators compute in each format; conversions are not among them.
        macs: multiply-accumulates of convolutions and matrix products in each format, for a batch of one
            where the batch is free.
        conversions: how often each kind of conversion occurs.
    """

    operators: dict[str, int]
    macs: dict[str, int]
    conversions: dict[str, int]

    def share(self, what: Mapping[str, int], name: str) -> float:
        """The part of `operators` or of `macs` that is in a format, from 0 to 1."""
        total = sum(what.values())
        return what.get(name, 0) / total if total else 0.0

    def lacks(self, precision: Precision) -> str | None:
        """The format that a file in `precision` must compute in and this one does not, or None."""
        present = {name for name, count in self.operators.items() if count}
        return next((" or ".join(sorted(names)) for names in _WANTED[precision] if not names & present), None)

    @property
    def precision(self) -> Precision:
        """The narrowest precision that the graph is in."""
        order = (Precision.INT8_FP16, Precision.INT8, Precision.FP16, Precision.BF16)
        return next((one for one in order if self.lacks(one) is None), Precision.FP32)

    def rows(self) -> list[tuple[str, int, float, int, float]]:
        """For each format its name, operators, their share, multiply-accumulates, their share."""
        return [
            (
                name,
                count,
                self.share(self.operators, name),
                self.macs.get(name, 0),
                self.share(self.macs, name),
            )
            for name, count in self.operators.items()
        ]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> DtypeCensus:
        """Reads what `to_json` wrote; the precision follows again."""
        return cls(dict(value["operators"]), dict(value["macs"]), dict(value["conversions"]))

    def to_json(self) -> dict[str, Any]:
        """The counts as a JSON object."""
        return {
            "precision": self.precision.value,
            "operators": self.operators,
            "macs": self.macs,
            "conversions": self.conversions,
        }


def census(proto: onnx.ModelProto) -> DtypeCensus:
    """Counts what a model computes in. Dynamic axes count as 1; graphs inside of operators are left out.

    Weights need not be there, only their types and shapes. Where onnx cannot infer the shapes of a product,
    its multiply-accumulates are not counted.
    """
    operators: Counter[str] = Counter()
    macs: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for row in nodes(proto):
        if row.kind is None:
            conversions[row.node.op_type] += row.node.op_type in _CONVERSIONS
            continue  # what computes shapes and indices says nothing of a precision
        operators[row.kind] += 1
        if row.macs is not None:
            macs[row.kind] += row.macs
    return DtypeCensus(*(dict(sorted((+one).items())) for one in (operators, macs, conversions)))


@dataclass(frozen=True)
class Counted:
    """One node of a graph.

    Attributes:
        node: the node.
        kind: the format it computes in; None for conversions, and for what computes shapes and indices.
        macs: its multiply-accumulates for a batch of one where the batch is free; None if it is no product,
            or its shapes are not known.
        shape: the shape of its first output, with 1 for a dynamic axis; None if it is not known.
    """

    node: onnx.NodeProto
    kind: str | None
    macs: int | None
    shape: tuple[int, ...] | None


def nodes(proto: onnx.ModelProto) -> list[Counted]:
    """What each node of a model computes in, and how much; see `census`."""
    kinds, shapes = _inferred(proto)
    producers = {name: node for node in proto.graph.node for name in node.output}
    rows = []
    for node in proto.graph.node:
        given = next((name for name in node.output if name), "")
        kind = _FORMATS.get(kinds.get(given, TensorProto.UNDEFINED))
        if node.op_type in _CONVERSIONS:
            kind = None
        elif kind and len(node.input) > 1 and all(_dequantized(name, producers) for name in node.input[:2]):
            kind = "int8"
        rows.append(Counted(node, kind, _macs(node, shapes), shapes.get(given)))
    return rows


def _dequantized(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    node = producers.get(name)
    while node is not None and node.op_type in _PASSES:
        node = producers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...] | None]) -> int | None:
    """Multiply-accumulates of a node, or None if it is none of those counted, or its shapes are not known."""
    if node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
        return None
    first, weight = (shapes.get(name) for name in node.input[:2])
    result = shapes.get(node.output[0])
    if first is None or weight is None or result is None:
        return None
    if node.op_type == "Conv":  # each result sums a kernel over the input channels of its group
        return prod(result) * prod(weight[1:])
    if node.op_type == "ConvTranspose":  # each input is spread by a kernel over the outputs of its group
        return prod(first) * prod(weight[1:])
    turned = next((a.i for a in node.attribute if a.name == "transA"), 0)
    return prod(result) * (first[0] if turned else first[-1])


def _inferred(proto: onnx.ModelProto) -> tuple[dict[str, int], dict[str, tuple[int, ...] | None]]:
    """Types and shapes of all values, with dynamic axes set to 1."""
    bound = onnx.ModelProto()
    bound.CopyFrom(proto)
    del bound.graph.value_info[:]
    for value in (*bound.graph.input, *bound.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(bound, data_prop=True).graph
    kinds = {tensor.name: int(tensor.data_type) for tensor in inferred.initializer}
    shapes: dict[str, tuple[int, ...] | None] = {t.name: tuple(t.dims) for t in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        kinds.setdefault(value.name, tensor.elem_type)
        known = tensor.HasField("shape") and all(size.HasField("dim_value") for size in tensor.shape.dim)
        shapes.setdefault(value.name, tuple(s.dim_value for s in tensor.shape.dim) if known else None)
    return kinds, shapes
