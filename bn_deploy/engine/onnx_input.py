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
        metadata: its key-value pairs: where the network comes from.
    """

    data: bytes
    nodes: tuple[onnx.NodeProto, ...]
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
    return OnnxInput(data, tuple(model.graph.node), metadata)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every constant in `graph` and in the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)
