"""The number formats that a network or an engine computes in, read back from TensorRT and counted.

A layer computes in int8 if its operands are dequantised ones (TensorRT fuses the DequantizeLinear into it),
else in the type of its output. Layers that hold a constant, change a type, or handle shapes compute nothing.
What a network computes in is the narrowest format that one of its convolutions or matrix products has:
float32 at its ends or in a sensitive layer does not make it an fp32 network, and a lone Relu in half does not
make it an fp16 one. "int8+fp16" is int8 products with anything else in fp16.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from bn_deploy.engine import messages
from bn_deploy.engine.onnx_input import OnnxInput
from bn_deploy.errors import ModelError
from bn_deploy.spec import TENSORRT_8, TENSORRT_10, Precision

_SINGLE = (Precision.INT8, Precision.FP16, Precision.BF16, Precision.FP32)  # narrowest first

# DataType by name.
_DATA_TYPES = {
    "FLOAT": Precision.FP32,
    "HALF": Precision.FP16,
    "BF16": Precision.BF16,
    "INT8": Precision.INT8,
}

# LayerType by name: those that multiply by weights, and those that compute nothing.
_PRODUCTS = {"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED", "EINSUM"}
_TYPE_CHANGES = {"CAST", "IDENTITY", "QUANTIZE", "DEQUANTIZE"}
_IDLE = {*_TYPE_CHANGES, "CONSTANT", "SHAPE"}
_PASSED_BY = {*_TYPE_CHANGES, "SHUFFLE", "SQUEEZE", "UNSQUEEZE"}  # the values stay the same

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

# Reduced precision that a weakly typed builder uses only when allowed, and the flag that allows it.
_WEAK_FLAGS = {
    Precision.FP16: ("FP16",),
    Precision.BF16: ("BF16",),
    Precision.INT8: ("INT8",),
    Precision.INT8_FP16: ("FP16", "INT8"),
}


def census_of_network(network: Any) -> dict[Precision, int]:
    """How many layers of an INetworkDefinition compute in each format; see the module for what counts."""
    return dict(_census(network)[0])


def of_network(network: Any) -> Precision:
    """The precision of an INetworkDefinition.

    Raises:
        ModelError: no layer computes in a format that is a precision.
    """
    layers, products = _census(network)
    precision = _named(products or layers)
    if precision is Precision.INT8 and Precision.FP16 in layers:
        precision = Precision.INT8_FP16
    if precision is None:
        raise ModelError(f"the network computes in none of {', '.join(item.value for item in _SINGLE)}")
    return precision


def _census(network: Any) -> tuple[Counter[Precision], Counter[Precision]]:
    """The formats of all layers that compute, and of the products among them."""
    all_layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {}
    for layer in all_layers:
        for number in range(layer.num_outputs):
            if (tensor := layer.get_output(number)) is not None:
                producers[tensor.name] = layer
    layers: Counter[Precision] = Counter()
    products: Counter[Precision] = Counter()
    for layer in all_layers:
        kind = layer.type.name
        found = None if kind in _IDLE else _format(layer, producers)
        if found is not None:
            layers[found] += 1
            products[found] += kind in _PRODUCTS
    return layers, +products


def _format(layer: Any, producers: Mapping[str, Any]) -> Precision | None:
    tensors = [layer.get_input(number) for number in range(layer.num_inputs)]
    operands = [tensor for tensor in tensors if tensor is not None]
    if operands and all(_dequantized(tensor, producers) for tensor in operands):
        return Precision.INT8
    output = layer.get_output(0) if layer.num_outputs else None
    return None if output is None else _DATA_TYPES.get(output.dtype.name)


def _dequantized(tensor: Any, producers: Mapping[str, Any]) -> bool:
    """Whether a tensor was dequantised, and since then had its type or its shape changed at most."""
    producer = producers.get(tensor.name)
    for _ in range(len(producers)):
        if producer is None or producer.type.name not in _PASSED_BY:
            return False
        if producer.type.name == "DEQUANTIZE":
            return True
        before = producer.get_input(0)
        producer = None if before is None else producers.get(before.name)
    return False


def weak_flags(source: OnnxInput, wanted: Precision | None) -> frozenset[str]:
    """The precision flags that a weakly typed builder needs for this ONNX file.

    They are what the graph holds: FP16 or BF16 if any tensor has that type, INT8 if anything is quantised. A
    file that is int8 and float32 where types are weak may be wanted as int8 with float16: the flag says so.

    Raises:
        ModelError: a scale is no float32 one.
    """
    if source.half_scales:
        name = source.nodes[source.half_scales[0]].name
        raise ModelError(f"{name}: {messages.HALF_SCALE}; export it with --for-tensorrt {TENSORRT_8}")
    found = {Precision[name] for name in ("FP16", "BF16", "INT8") if name in source.formats}
    found |= {wanted} if wanted is Precision.INT8_FP16 and Precision.INT8 in found else set()
    return frozenset(flag for precision in found for flag in _WEAK_FLAGS[precision])


def of_flags(flags: Iterable[str]) -> Precision:
    """The precision that a weakly typed builder is allowed by these flags."""
    return _named(Precision[flag] for flag in flags) or Precision.FP32


def census_of_engine(engine: Any, module: Any) -> dict[Precision, int] | None:
    """How many layers of an ICudaEngine compute in each format; None if its inspector does not tell.

    It tells for plans built with the profiling verbosity DETAILED.
    """
    inspector = engine.create_engine_inspector()
    return census_of_inspection(inspector.get_engine_information(module.LayerInformationFormat.JSON))


def census_of_inspection(text: str) -> dict[Precision, int] | None:
    """What an inspector's JSON tells of the layers' formats; None if nothing.

    Up to TensorRT 10 a tensor has the key "Format/Datatype", from 11 on "Format" and "DataType".
    """
    try:
        records = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return None
    census: Counter[Precision] = Counter()
    for record in records:
        if isinstance(record, dict) and (found := of_record(record)) is not None:
            census[found] += 1
    return dict(census) or None


def of_record(record: Mapping[str, Any]) -> Precision | None:
    """The narrowest format that an engine's layer touches, from its record in the inspector's JSON."""
    words: set[str] = set()
    for entry in (*record.get("Inputs", ()), *record.get("Outputs", ())):
        kinds = (entry.get(key, "") for key in ("Format/Datatype", "Format", "DataType"))
        words |= set(re.findall(r"\w+", " ".join(map(str, kinds)).lower()))
    return _named(_WORDS[word] for word in words if word in _WORDS)


def of_census(census: Iterable[Precision] | None) -> Precision | None:
    """The precision of an engine whose layers have these formats; None if nothing is known of them."""
    return None if census is None else _named(census)


def check_wanted(
    wanted: Precision | None, found: Precision, census: Mapping[Precision, int], target: str = ""
) -> None:
    """Refuses a network or an engine that computes in another precision than was asked for.

    Args:
        wanted: what was asked for; None takes anything.
        found: what it computes in.
        census: how many of its layers do in each format.
        target: which TensorRT its file says it is for, where another one is building.

    Raises:
        ModelError: it does; the message tells the layers of each format.
    """
    if wanted is not None and wanted is not found:
        layers = ", ".join(f"{count} in {precision.value}" for precision, count in census.items())
        elsewhere = f" --for-tensorrt {TENSORRT_10}, not {TENSORRT_8}" if target == TENSORRT_8 else ""
        raise ModelError(
            f"{wanted.value} was asked for, and it computes in {found.value} (layers: {layers or 'none'}); "
            f"export it with --precision {wanted.value}{elsewhere}"
        )


def _named(found: Iterable[Precision]) -> Precision | None:
    """The narrowest of some formats; int8 and fp16 together have a name of their own."""
    present = set(found)
    if Precision.INT8_FP16 in present or {Precision.INT8, Precision.FP16} <= present:
        return Precision.INT8_FP16
    return next((precision for precision in _SINGLE if precision in present), None)
