"""Tiny ONNX models, made of nothing but onnx."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper


def cnn(
    batch: int | str = "batch",
    *,
    side: int | str = 8,
    half: bool = False,
    nodes: Callable[[list[NodeProto]], list[NodeProto]] = lambda nodes: nodes,
) -> onnx.ModelProto:
    """Conv, Sigmoid, Flatten, Gemm: image (batch, 1, 8, 8) -> logits (batch, 5); `nodes` may change it."""
    rng = np.random.default_rng(7)
    kind = np.float16 if half else np.float32
    weights = {
        "w1": rng.normal(size=(4, 1, 3, 3)),
        "b1": rng.normal(size=4),
        "w2": rng.normal(size=(4 * 6 * 6, 5)),
        "b2": rng.normal(size=5),
    }
    graph = helper.make_graph(
        nodes(
            [
                helper.make_node("Conv", ["image", "w1", "b1"], ["c"], name="conv"),
                helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
                helper.make_node("Flatten", ["s"], ["f"], name="flatten"),
                helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], name="gemm"),
            ]
        ),
        "cnn",
        [_value("image", half, [batch, 1, side, side])],
        [_value("logits", half, [batch, 5])],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in weights.items()],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("unheard.of", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def quantized(*, half: bool = False, zero_point: int = 0) -> onnx.ModelProto:
    """One convolution between QuantizeLinear and DequantizeLinear, in int8; the rest in float16 if `half`."""
    rng = np.random.default_rng(7)
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["image", "sx", "zx"], ["xq"], "qx"),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"], "dx"),
        node("DequantizeLinear", ["wq", "sw", "zw"], ["wd"], "dw", axis=0),
    ]
    x, w = ("xd", "wd")
    if half:
        nodes += [
            node("Cast", ["xd"], ["xh"], "cx", to=TensorProto.FLOAT16),
            node("Cast", ["wd"], ["wh"], "cw", to=TensorProto.FLOAT16),
        ]
        x, w = ("xh", "wh")
    nodes += [
        node("Conv", [x, w, "b"], ["c"], "conv"),
        node("Sigmoid", ["c"], ["s"], "sigmoid"),
        node("Cast", ["s"], ["logits"], "out", to=TensorProto.FLOAT),
    ]
    kind = np.float16 if half else np.float32
    weights: dict[str, np.ndarray[Any, Any]] = {
        "sx": np.array(0.1, np.float32),
        "zx": np.array(zero_point, np.int8),
        "sw": np.full(4, 0.02, np.float32),
        "zw": np.zeros(4, np.int8),
        "wq": rng.integers(-127, 127, (4, 1, 3, 3)).astype(np.int8),
        "b": rng.normal(size=4).astype(kind),
    }
    graph = helper.make_graph(
        nodes,
        "quantized",
        [_value("image", False, ["batch", 1, 8, 8])],
        [_value("logits", False, ["batch", 4, 6, 6])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def half_scales() -> onnx.ModelProto:
    """A network whose first pair has scales in half: so are files for TensorRT 10 and later."""
    model = quantized(half=True)
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "sx")
    scale.CopyFrom(numpy_helper.from_array(np.array(0.1, np.float16), "sx"))
    entry = next(entry for entry in model.opset_import if entry.domain == "")
    entry.version = 19  # the first in which a scale may be half
    image = model.graph.input[0].type.tensor_type
    image.elem_type = TensorProto.FLOAT16
    del model.graph.node[next(n for n, node in enumerate(model.graph.node) if node.name == "cx")]
    next(node for node in model.graph.node if node.name == "conv").input[0] = "xd"
    return model


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def _value(name: str, half: bool, shape: list[int | str]) -> onnx.ValueInfoProto:
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    return helper.make_tensor_value_info(name, kind, shape)
