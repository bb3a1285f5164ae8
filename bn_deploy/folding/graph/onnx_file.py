"""Folds an ONNX file: reads it, folds its graph, checks the result and writes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]  # onnx's own

from bn_deploy.artifact import write_bytes
from bn_deploy.errors import CheckFailed, ModelError, first_line
from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.outcome import FoldReport


def fold_onnx(src: str | Path, dst: str | Path) -> FoldReport:
    """Folds every batch norm of an ONNX file that provably can be folded, whoever wrote the file.

    Names, types and shapes of inputs and outputs, metadata, operator set and nodes that are not concerned
    stay as they are.

    Args:
        src: the file to read.
        dst: the file to write, whole or not at all; it may be `src`.

    Returns:
        The outcome of each batch norm.

    Raises:
        ModelError: `src` is missing, is no valid ONNX file, or holds what cannot be carried over.
        CheckFailed: the folded graph is not valid ONNX, which would be a fault of this function.
        InputError: `dst` cannot be written.
    """
    src, dst = Path(src), Path(dst)
    proto = _read(src)
    _check_kind(src, proto)
    try:
        model = ir.from_proto(proto)
    except Exception as error:
        raise ModelError(f"{src} holds something that cannot be folded: {first_line(error)}") from error
    report = fold_model(model)
    try:
        folded = ir.to_proto(model)
        onnx.checker.check_model(folded, full_check=True)
        data = folded.SerializeToString(deterministic=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        _check(src, proto)
        raise CheckFailed(f"{src} folded is not valid ONNX: {first_line(error)}") from error
    except (ValueError, EncodeError) as error:
        raise ModelError(f"{src} is too large for one file once it is folded: {first_line(error)}") from error
    write_bytes(dst, data)
    return report


def _read(path: Path) -> onnx.ModelProto:
    """The content of an ONNX file."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not an ONNX file")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())  # `load` would follow paths in the file
    except FileNotFoundError:
        raise ModelError(f"there is no ONNX file {path}") from None
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX file: {first_line(error)}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    return proto


def _check_kind(path: Path, proto: onnx.ModelProto) -> None:
    """Refuses what would be lost, or what is not in the file."""
    if proto.training_info:
        raise ModelError(f"{path} holds training information; export the network for inference")
    for graph in _graphs(proto.graph):
        if graph.sparse_initializer:
            raise ModelError(f"{path} holds sparse weights, which cannot be folded; store them dense")
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise ModelError(f"{path} keeps weights in other files; save it as one file (up to 2 GB) first")
    _check(path, proto)


def _check(path: Path, proto: onnx.ModelProto) -> None:
    """Refuses a file that is not valid as it is."""
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{path} is not valid ONNX: {first_line(error)}") from error


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)
