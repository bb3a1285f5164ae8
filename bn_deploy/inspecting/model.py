"""Looks into an ONNX file: its operators, and what each computes in and how much."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own dependency

from bn_deploy.errors import InputError, ModelError
from bn_deploy.inspecting.inspection import Inspection
from bn_deploy.precision.census import Counted, census, nodes
from bn_deploy.spec import TensorSpec


def inspect(path: Path, size_bytes: int, sha256: str) -> Inspection:
    """What is in the ONNX file at `path`; weights in other files are not read.

    Raises:
        InputError: it cannot be read.
        ModelError: it is no ONNX file.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        rows = nodes(model)
        shares = census(model)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise ModelError(f"{path} is not an ONNX file") from error
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"{path} is not a valid ONNX file: {' '.join(str(error).split())}") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{path} is not an ONNX file")
    weights = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in weights]
    elsewhere = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    notes = [f"{len(elsewhere)} weights lie in other files"] if elsewhere else []
    if any(entry.node.op_type in _PRODUCTS and entry.macs is None for entry in rows):
        notes.append("not every product's shape is known; those without are not counted")
    return Inspection(
        "onnx",
        path,
        size_bytes,
        sha256,
        {entry.key: entry.value for entry in model.metadata_props},
        tuple(map(_spec, given)),
        tuple(map(_spec, model.graph.output)),
        {
            "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
            "operators": len(rows),
            "parameters": sum(weights.values()),
            "macs": sum(shares.macs.values()),
            "operators_by_format": shares.operators,
            "macs_by_format": shares.macs,
            "conversions": shares.conversions,
        },
        tuple(_row(entry, weights) for entry in rows),
        tuple(notes),
    )


_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def _row(entry: Counted, weights: dict[str, int]) -> dict[str, Any]:
    node = entry.node
    return {
        "name": node.name or next(iter(node.output), ""),
        "operator": node.op_type,
        "format": entry.kind,
        "shape": None if entry.shape is None else list(entry.shape),
        "parameters": sum(weights.get(name, 0) for name in dict.fromkeys(node.input)),
        "macs": entry.macs,
    }


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    sizes = tuple(size.dim_value if size.HasField("dim_value") else None for size in tensor.shape.dim)
    try:
        kind = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        kind = "unknown"
    return TensorSpec(value.name, sizes, kind)
