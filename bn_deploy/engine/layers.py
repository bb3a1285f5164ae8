"""The layers of an engine, as its inspector tells them, each with the ONNX nodes that it was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bn_deploy.engine import precision

_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\s*(?:\x1e|\[|$))")


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine.

    Attributes:
        name: what TensorRT calls it; a fused one has the names of its parts.
        kind: its type, such as "Convolution"; empty if the engine was not built to tell.
        tactic: the kernel that was chosen; empty if the engine does not tell.
        precision: the number format; empty if the engine does not tell.
        shape: the shape of its first output, -1 for a dynamic axis; None if the engine does not tell.
        nodes: the names of the ONNX nodes that it computes.
    """

    name: str
    kind: str
    tactic: str
    precision: str
    shape: tuple[int, ...] | None
    nodes: tuple[str, ...]


def of_engine(engine: Any, module: Any) -> tuple[EngineLayer, ...]:
    """The layers of an ICudaEngine; only their names, if it was not built with the verbosity DETAILED."""
    inspector = engine.create_engine_inspector()
    return of_inspection(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def of_inspection(text: str) -> tuple[EngineLayer, ...]:
    """The layers that an inspector's JSON tells of; none if it cannot be read."""
    try:
        records = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return ()
    return tuple(_layer(record) for record in records)


def _layer(record: str | Mapping[str, Any]) -> EngineLayer:
    if isinstance(record, str):
        return EngineLayer(record, "", "", "", None, ())
    found = precision.of_record(record)
    sizes = next((entry.get("Dimensions") for entry in record.get("Outputs", ())), None)
    return EngineLayer(
        name=str(record.get("Name", "")),
        kind=str(record.get("LayerType", "")),
        tactic=str(record.get("TacticName") or record.get("TacticValue") or ""),
        precision=found.value if found else "",
        shape=tuple(map(int, sizes)) if sizes else None,
        nodes=tuple(_ONNX_NODE.findall(str(record.get("Metadata", "")))),
    )
