"""Reads an ONNX file without holding its weights: they are arrays in mapped files, read where needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own
from numpy.typing import NDArray

from bn_deploy.errors import ModelError, first_line
from bn_deploy.onnxfile.external import DataFiles, entry_of, mapped
from bn_deploy.onnxfile.skeleton import LARGE_BYTES, complete, without_bfloat16
from bn_deploy.onnxfile.wire import WireError, taken_out

LARGEST_FILE_BYTES = (1 << 31) - 1
"""What protobuf can read as one message."""


@dataclass(frozen=True)
class Stored:
    """An ONNX file.

    Attributes:
        path: the file.
        proto: what is in it; tensors in `weights` are marked as external and say no place.
        weights: the large initializers of the main graph, by name: read-only, and read when looked at.
        data_files: the other files that it keeps weights in, as they are really called.
    """

    path: Path
    proto: onnx.ModelProto
    weights: Mapping[str, NDArray[Any]]
    data_files: frozenset[Path]

    def model(self) -> ir.Model:
        """The graph to work on. Its large weights are views of the files, which must stay.

        Raises:
            ModelError: onnx-ir cannot hold it.
        """
        try:
            model = ir.from_proto(self.proto)
        except Exception as error:  # it raises whatever its parts raise
            raise ModelError(
                f"{self.path} holds something that cannot be folded: {first_line(error)}"
            ) from error
        for name, array in self.weights.items():
            value = model.graph.initializers[name]
            given = value.const_value
            assert given is not None  # noqa: S101 - an initializer was read
            value.const_value = ir.Tensor(
                array,
                given.dtype,
                name=name,
                doc_string=given.doc_string,
                metadata_props=dict(given.metadata_props),
            )
        return model


def read(path: Path) -> Stored:
    """Reads an ONNX file, and finds its weights wherever they lie.

    Raises:
        ModelError: it is missing, is no ONNX file, or names weights that must not be read.
    """
    data, proto, places = _parsed(path)
    files = DataFiles(path)
    weights: dict[str, NDArray[Any]] = {}
    for tensor, is_main in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if is_main and tensor.name in weights:
            raise ModelError(f"{path} is not valid ONNX: two initializers are called {tensor.name}")
        kind, size_bytes = _size(tensor, path)
        own = places.get(tensor.name) if is_main else None
        stretch = files.stretch(tensor, size_bytes) if own is None else data[own[0] : sum(own)]
        if len(stretch) != size_bytes:
            raise ModelError(
                f"{path}: {tensor.name} has {len(stretch)} bytes, but needs {size_bytes} by its shape"
            )
        del tensor.external_data[:]
        # Several numbers in one byte are no array; subgraphs and attributes are read whole wherever they are.
        if is_main and kind.bitwidth >= 8 and size_bytes >= LARGE_BYTES:
            weights[tensor.name] = np.frombuffer(stretch, _little(kind)).reshape(tuple(tensor.dims))
        else:
            tensor.raw_data = bytes(stretch)
            tensor.ClearField("data_location")
    return Stored(path, proto, weights, frozenset(files.found))


def _parsed(path: Path) -> tuple[memoryview, onnx.ModelProto, dict[str, tuple[int, int]]]:
    """The bytes of an ONNX file, what is in it without large weights, and where these are."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not an ONNX file")
    try:
        data = mapped(path)
        bare, places = taken_out(data, LARGE_BYTES)
        proto = onnx.load_model_from_string(bare)  # `load` would follow paths in the file
    except FileNotFoundError:
        raise ModelError(f"there is no ONNX file {path}") from None
    except (DecodeError, WireError, ValueError) as error:
        raise ModelError(f"{path} is not an ONNX file: {first_line(error)}") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph")
    return data, proto, places


def locations(path: Path) -> set[str]:
    """The names of the files in which the ONNX file `path` keeps weights; none if it is no such file."""
    try:
        _, proto, _ = _parsed(path)
        external = (t for t, _ in _tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL)
        return {entry_of(tensor, path).location for tensor in external if tensor.external_data}
    except ModelError:
        return set()


def check(proto: onnx.ModelProto) -> None:
    """Lets onnx check a model, shapes included, whose large weights are marked as external.

    Two things may be missing that its checker demands and that no runtime needs: the name of the graph, and
    that an input or output has a shape at all, which some exporters leave out where the rank is not known.

    Raises:
        onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError: it is not valid.
    """
    bare = complete(proto)
    without_bfloat16(bare)
    onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True)
    bare.graph.name = bare.graph.name or "graph"
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    onnx.checker.check_model(bare)


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor in a model, and whether it is an initializer of the main graph."""
    yield from ((tensor, True) for tensor in proto.graph.initializer)
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            yield from ((tensor, False) for tensor in (attribute.t, *attribute.tensors))
            for graph in (attribute.g, *attribute.graphs):
                yield from ((tensor, False) for tensor in graph.initializer)
                nodes += graph.node


def _size(tensor: onnx.TensorProto, path: Path) -> tuple[ir.DataType, int]:
    """The type of a tensor, and how many bytes it takes."""
    try:
        kind = ir.DataType(tensor.data_type)
        bits = kind.bitwidth
    except (TypeError, ValueError):
        raise ModelError(f"{path}: {tensor.name} is of a type that is not kept as bytes") from None
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path}: {tensor.name} has the shape {list(tensor.dims)}")
    return kind, -(-prod(tensor.dims) * bits // 8)


def _little(kind: ir.DataType) -> np.dtype[Any]:
    """The type in numpy, in the order of bytes that ONNX stores."""
    dtype = kind.numpy()
    return dtype.newbyteorder("<") if dtype.kind in "fiuc" else dtype
