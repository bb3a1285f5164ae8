"""Folds an ONNX file: reads it, folds its graph, checks the result and writes it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]  # onnx's own

from bn_deploy.artifact import atomic_files
from bn_deploy.errors import CheckFailed, ModelError, first_line
from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.onnxfile.stored import Stored, check, read
from bn_deploy.onnxfile.writing import Unwritten, require_free

_SPARSE = (onnx.AttributeProto.SPARSE_TENSOR, onnx.AttributeProto.SPARSE_TENSORS)

_TOO_LARGE = "holds more than 2 GB besides its initializers, which no file can"


def fold_onnx(
    src: str | Path,
    dst: str | Path,
    *,
    pad_exact: bool = False,
    merge_branches: bool = False,
    before_naming: Callable[[Path], None] | None = None,
) -> FoldReport:
    """Folds every batch norm of an ONNX file that provably can be folded, whoever wrote the file.

    Names, types and shapes of inputs and outputs, metadata, operator set and nodes that are not concerned
    stay as they are. One file becomes one file. If `src` keeps weights in other files, or one file cannot
    hold the result (2 GB), the large weights go to `DST.data` beside `dst`. Weights are never held all at
    once: they are read where they lie, changed and written one by one.

    Args:
        src: the file to read. Other files that it names must lie in its folder.
        dst: the file to write, whole or not at all; it may be `src`.
        pad_exact: whether a batch norm before padded zeros may be split: its scale goes into what follows,
            and its shift stays, as one Add.
        merge_branches: whether parallel linear layers of one value, and batch norms beside them, become one
            where they are added up.
        before_naming: is given the finished file before it gets its name; if it raises, nothing is written.

    Returns:
        The outcome of each batch norm.

    Raises:
        ModelError: `src` is missing, is no valid ONNX file, or holds what cannot be carried over.
        CheckFailed: the folded graph is not valid ONNX, which would be a fault of this function.
        InputError: `dst` cannot be written, or `DST.data` belongs to another model.
    """
    src, dst = Path(src), Path(dst)
    stored = read(src)
    with _uncollected():
        _check_kind(stored)
        model = stored.model()
        report = fold_model(model, pad_exact=pad_exact, merge_branches=merge_branches, written=stored.proto)
        folded = _checked(model, src)
    with atomic_files(dst) as staged:
        if folded.write(staged, external=bool(stored.data_files)):
            require_free(dst, src, stored.data_files)
        if before_naming is not None:
            before_naming(staged)
    return report


def _checked(model: ir.Model, src: Path) -> Unwritten:
    """The folded model, which is found to be valid."""
    try:
        folded = Unwritten.of(model)
        check(folded.proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"{src} folded is not valid ONNX: {first_line(error)}") from error
    except (ValueError, EncodeError) as error:
        raise ModelError(f"{src} {_TOO_LARGE}: {first_line(error)}") from error
    return folded


@contextmanager
def _uncollected() -> Iterator[None]:
    """Lets the collector of cycles rest: it would walk a growing graph, which stays, over and over again.

    That is a quarter of the time that 10,000 nodes take. Large arrays are in no cycle.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check_kind(stored: Stored) -> None:
    """Refuses what would be lost, or what is not valid as it is."""
    path, proto = stored.path, stored.proto
    if proto.training_info:
        raise ModelError(f"{path} holds training information; export the network for inference")
    if any(_is_sparse(part) for part in (*_graphs(proto.graph), *proto.functions)):
        raise ModelError(f"{path} holds sparse weights, which cannot be folded; store them dense")
    _check(stored)


def _check(stored: Stored) -> None:
    """Refuses a file that is not valid as it is."""
    try:
        check(stored.proto)
    except EncodeError as error:
        raise ModelError(f"{stored.path} {_TOO_LARGE}: {first_line(error)}") from error
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"{stored.path} is not valid ONNX: {first_line(error)}") from error


def _is_sparse(part: onnx.GraphProto | onnx.FunctionProto) -> bool:
    """Whether there are sparse tensors: as initializers, or in an operator such as Constant."""
    if isinstance(part, onnx.GraphProto) and part.sparse_initializer:
        return True
    attributes = (attribute for node in part.node for attribute in node.attribute)
    return any(attribute.type in _SPARSE for attribute in attributes)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all graphs inside its operators."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner)
