"""Small networks of every kind of layer, each typed for a precision by hand.

A network is a list of layers on one tensor `x`; `Typed` writes each product in the precision that is wanted.
The inputs and the outputs stay float32, as in the files that this package exports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from bn_deploy.spec import Precision

FORMS = (Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT8_FP16)

_TYPES = {Precision.FP16: TensorProto.FLOAT16, Precision.INT8_FP16: TensorProto.FLOAT16}
_TYPES |= {Precision.BF16: TensorProto.BFLOAT16}


class Typed:
    """A graph that grows at its end, `x`."""

    def __init__(self, form: Precision, batch: int | str, shape: tuple[int, ...]) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self._form = form
        self._input = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *shape])
        self._type = _TYPES.get(form, TensorProto.FLOAT)
        self._rng = np.random.default_rng(5)
        self.x = "image"
        if self._type != TensorProto.FLOAT:
            self.then("Cast", self.x, to=self._type)

    def then(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node after `inputs` and makes its output the end."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        self.x = name
        return name

    def product(self, operator: str, shape: tuple[int, ...], axis: int, **attributes: Any) -> None:
        """Adds a product of the end with weights of `shape`, whose output channels are `axis`, and a bias."""
        weights = self._rng.normal(size=shape).astype(np.float32) / 4
        channels = shape[axis] * attributes.get("group", 1) if operator == "ConvTranspose" else shape[axis]
        x, w = self.x, self._held(weights)
        if self._form in (Precision.INT8, Precision.INT8_FP16):
            x, w = self._dequantized(self.x, shape=()), self._dequantized_weights(weights, axis)
        bias = self._held(self._rng.normal(size=channels).astype(np.float32))
        self.then(operator, x, w, bias, **attributes)

    def model(self) -> onnx.ModelProto:
        """The whole, with its output back in float32."""
        end = self.then("Cast", self.x, to=TensorProto.FLOAT)
        output = helper.make_tensor_value_info(end, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "zoo", [self._input], [output], self.weights)
        opset = [helper.make_opsetid("", 17)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=9)
        return onnx.shape_inference.infer_shapes(model)

    def _held(self, values: np.ndarray[Any, Any], kind: int | None = None) -> str:
        name = f"w{len(self.weights)}"
        floats = helper.make_tensor(name, kind or self._type, values.shape, values.flatten().tolist())
        self.weights.append(floats)
        return name

    def _dequantized(self, x: str, shape: tuple[int, ...]) -> str:
        if self._type != TensorProto.FLOAT:
            x = self.then("Cast", x, to=TensorProto.FLOAT)
        scale = self._held(np.full(shape, 0.05, np.float32), TensorProto.FLOAT)
        zero = self._held(np.zeros(shape, np.int8), TensorProto.INT8)
        quantized = self.then("QuantizeLinear", x, scale, zero)
        return self._narrow(self.then("DequantizeLinear", quantized, scale, zero))

    def _dequantized_weights(self, weights: np.ndarray[Any, Any], axis: int) -> str:
        others = tuple(n for n in range(weights.ndim) if n != axis)
        scales = np.abs(weights).max(axis=others) / 127
        wide = scales.reshape([-1 if n == axis else 1 for n in range(weights.ndim)])
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.round(weights / wide).astype(np.int8), name))
        scale = self._held(scales, TensorProto.FLOAT)
        zero = self._held(np.zeros(len(scales), np.int8), TensorProto.INT8)
        return self._narrow(self.then("DequantizeLinear", name, scale, zero, axis=axis))

    def _narrow(self, x: str) -> str:
        return x if self._type == TensorProto.FLOAT else self.then("Cast", x, to=self._type)


Network = Callable[[Precision, "int | str"], onnx.ModelProto]


def _convolutions(*layers: tuple[str, tuple[int, ...], int, dict[str, Any]], side: int = 8) -> Network:
    """Products after one another, with a Relu in between, on (N, 4, side, side)."""

    def make(form: Precision, batch: int | str) -> onnx.ModelProto:
        net = Typed(form, batch, (4, side, side))
        for operator, shape, axis, attributes in layers:
            net.product(operator, shape, axis, **attributes)
            net.then("Relu", net.x)
        return net.model()

    return make


def _residual(form: Precision, batch: int | str) -> onnx.ModelProto:
    net = Typed(form, batch, (4, 8, 8))
    before = net.x
    for _ in range(2):
        net.product("Conv", (4, 4, 3, 3), 0, pads=[1, 1, 1, 1])
        net.then("Relu", net.x)
    net.then("Add", before, net.x)
    net.then("GlobalAveragePool", net.x)
    return net.model()


def _one_axis(form: Precision, batch: int | str) -> onnx.ModelProto:
    net = Typed(form, batch, (4, 32))
    for _ in range(2):
        net.product("Conv", (4, 4, 5), 0, pads=[2, 2])
        net.then("Sigmoid", net.x)
    return net.model()


def _mlp(form: Precision, batch: int | str) -> onnx.ModelProto:
    net = Typed(form, batch, (32,))
    for size, before in ((16, 32), (8, 16)):
        net.product("Gemm", (size, before), 0, transB=1)
        net.then("Tanh", net.x)
    return net.model()


PADDED = {"pads": [1, 1, 1, 1]}
PLAIN = ("Conv", (8, 4, 3, 3), 0, PADDED)

NETWORKS: dict[str, Network] = {
    "plain": _convolutions(PLAIN, ("Conv", (4, 8, 1, 1), 0, {"strides": [2, 2]})),
    "grouped": _convolutions(PLAIN, ("Conv", (8, 4, 3, 3), 0, {"group": 2, **PADDED})),
    "depthwise": _convolutions(PLAIN, ("Conv", (8, 1, 3, 3), 0, {"group": 8, **PADDED})),
    "transposed": _convolutions(PLAIN, ("ConvTranspose", (8, 4, 2, 2), 1, {"strides": [2, 2]})),
    "residual": _residual,
    "1-D": _one_axis,
    "MLP": _mlp,
}
