"""An ONNX file on its way into TensorRT: read once, and certain to be ONNX before TensorRT sees it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own dependency

from bn_deploy.errors import InputError, ModelError


@dataclass(frozen=True)
class OnnxInput:
    """A valid ONNX file in memory.

    Attributes:
        data: its bytes.
        nodes: the nodes of its graph.
        formats: the narrow number formats in it: "FP16" and "BF16" if a tensor has that type, "INT8" if
            anything is quantised.
        half_scales: the places in `nodes` of those that quantise with a scale that is no float32 one.
        metadata: its key-value pairs: where the network comes from.
    """

    data: bytes
    nodes: tuple[onnx.NodeProto, ...]
    formats: frozenset[str]
    half_scales: tuple[int, ...]
    metadata: dict[str, str]


def read(path: Path) -> OnnxInput:
    """Reads the ONNX file at `path`.

    Weights in other files are refused: the digest that ties a plan to its ONNX file would not cover them.

    Raises:
        InputError: the file cannot be read.
        ModelError: it is no valid ONNX file, or keeps weights in another file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file") from error
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"{path} keeps the weight {tensor.name!r} in another file; save it as one file")
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split("\n\n")[0].split())
        raise ModelError(f"{path} is not a valid ONNX file: {reason}") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    nodes, formats = tuple(model.graph.node), frozenset(_formats(model.graph))
    return OnnxInput(data, nodes, formats, _half_scales(model.graph), metadata)


_NARROW: dict[int, str] = {onnx.TensorProto.FLOAT16: "FP16", onnx.TensorProto.BFLOAT16: "BF16"}
_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


def _formats(graph: onnx.GraphProto) -> Iterator[str]:
    """The narrow formats of weights, inputs, outputs and casts, and "INT8" for each quantised tensor."""
    for tensor in _tensors(graph):
        if tensor.data_type in _NARROW:
            yield _NARROW[tensor.data_type]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in _NARROW:
            yield _NARROW[value.type.tensor_type.elem_type]
    for node in graph.node:
        if node.op_type in _QUANTIZERS:
            yield "INT8"
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _NARROW:
                yield _NARROW[attribute.i]
            for inner in (attribute.g, *attribute.graphs):
                yield from _formats(inner)


def _half_scales(graph: onnx.GraphProto) -> tuple[int, ...]:
    half = {tensor.name for tensor in graph.initializer if tensor.data_type in _NARROW}
    return tuple(
        index
        for index, node in enumerate(graph.node)
        if node.op_type in _QUANTIZERS and half & set(node.input[1:2])
    )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant in `graph` and in the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
