"""The number format of a network or an engine, read back from TensorRT.

It is the narrowest one that any layer gives out: a network of float16 layers with float32 at its ends
computes in fp16. Integers that hold shapes and indices say nothing about it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from bn_deploy.errors import ModelError
from bn_deploy.spec import Precision

_ORDER = (Precision.INT8, Precision.FP16, Precision.BF16, Precision.FP32)

# DataType by name.
_DATA_TYPES = {
    "FLOAT": Precision.FP32,
    "HALF": Precision.FP16,
    "BF16": Precision.BF16,
    "INT8": Precision.INT8,
}

# The words for a type in the inspector's JSON: "Row major linear FP16 format" and "Half" are both in use.
_WORDS = {
    "fp32": Precision.FP32,
    "float": Precision.FP32,
    "fp16": Precision.FP16,
    "half": Precision.FP16,
    "bf16": Precision.BF16,
    "bfloat16": Precision.BF16,
    "int8": Precision.INT8,
}


def of_network(network: Any) -> Precision:
    """The precision of an INetworkDefinition, from the types of its layers' outputs.

    Raises:
        ModelError: no layer gives out a type that is a precision.
    """
    found = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = (layer.get_output(number) for number in range(layer.num_outputs))
        found |= {tensor.dtype.name for tensor in outputs if tensor is not None}
    precision = _narrowest(_DATA_TYPES[name] for name in found if name in _DATA_TYPES)
    if precision is None:
        raise ModelError(f"the network computes in none of {', '.join(item.value for item in _ORDER)}")
    return precision


def of_engine(engine: Any, module: Any) -> Precision | None:
    """The precision of an ICudaEngine, from its inspector; None if the inspector does not tell.

    It tells for plans built with the profiling verbosity DETAILED, which is how build.py builds them.
    """
    inspector = engine.create_engine_inspector()
    return of_inspection(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def of_inspection(text: str) -> Precision | None:
    """The precision that an inspector's JSON tells of; None if it tells of none.

    Up to TensorRT 10 a tensor has the key "Format/Datatype", from 11 on "Format" and "DataType".
    """
    try:
        records = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return None
    words: set[str] = set()
    for record in records:
        if not isinstance(record, dict):  # only its name: built with another verbosity
            continue
        for entry in (*record.get("Inputs", ()), *record.get("Outputs", ())):
            kinds = (entry.get(key, "") for key in ("Format/Datatype", "Format", "DataType"))
            words |= set(re.findall(r"\w+", " ".join(map(str, kinds)).lower()))
    return _narrowest(_WORDS[word] for word in words if word in _WORDS)


def _narrowest(found: Iterable[Precision]) -> Precision | None:
    present = set(found)
    return next((precision for precision in _ORDER if precision in present), None)
