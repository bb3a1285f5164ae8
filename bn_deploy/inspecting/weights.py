"""Looks into a safetensors file: its tensors and what is written beside them."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any

from bn_deploy.errors import CheckpointError, first_line
from bn_deploy.inspecting.inspection import Inspection


def inspect(path: Path, size_bytes: int, sha256: str) -> Inspection:
    """What is in the checkpoint at `path`; no tensor is read.

    Raises:
        CheckpointError: it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    rows = []
    try:
        with safe_open(path, framework="np") as file:
            beside = file.metadata() or {}
            for name in file.keys():  # noqa: SIM118 - the file is no mapping
                part = file.get_slice(name)
                shape = list(part.get_shape())
                rows.append(
                    {"name": name, "dtype": part.get_dtype(), "shape": shape, "parameters": prod(shape)}
                )
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a safetensors file: {first_line(error)}") from error
    totals = {"tensors": len(rows), "parameters": sum(row["parameters"] for row in rows)}
    origin: dict[str, Any] = {}
    for name, text in beside.items():
        value = _value(text)
        origin |= value if isinstance(value, dict) else {name: value}
    return Inspection("checkpoint", path, size_bytes, sha256, origin, totals=totals, rows=tuple(rows))


def _value(text: str) -> Any:
    """A text of the file's metadata, which holds JSON where this package wrote it."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
