"""Small CNNs and an MLP, made of nothing but onnx: image (batch, ...) -> logits (batch, classes)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]

OPSET = 18
CLASSES = 5


@dataclass
class Net:
    """A network in the making; `last` is the value that the next layer reads.

    Attributes:
        shape: of one image.
    """

    shape: tuple[int, ...]
    opset: int = OPSET
    last: str = "image"
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(3))

    def weight(self, name: str, *shape: int, scale: float | None = None) -> str:
        """A random weight that keeps the size of what goes through, and its name."""
        size = scale if scale is not None else float(max(1, prod(shape[1:]))) ** -0.5
        self.weights[name] = (self.rng.normal(size=shape) * size).astype(np.float32)
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> Net:
        """A node that reads `last` and `inputs`; it and its result are called after its operator."""
        result = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(op, [self.last, *inputs], [result], name=f"n_{result}", **attributes)
        )
        self.last = result
        return self

    def conv(self, *kernel: int, op: str = "Conv", bias: int | None = None, **attributes: Any) -> Net:
        name = f"w{len(self.nodes)}"
        channels = kernel[0] if bias is None else bias
        return self.add(
            op, self.weight(name, *kernel), self.weight(f"{name}.bias", channels, scale=0.1), **attributes
        )

    def dense(self, features: int, classes: int = CLASSES, *, turned: bool = True) -> Net:
        name = f"w{len(self.nodes)}"
        shape = (classes, features) if turned else (features, classes)
        weight = self.weight(name, *shape, scale=features**-0.5)
        return self.add("Gemm", weight, self.weight(f"{name}.bias", classes, scale=0.1), transB=int(turned))

    def model(self, batch: int | str = "batch") -> onnx.ModelProto:
        """The model, with a line of metadata."""
        self.nodes[-1].output[0] = "logits"
        graph = helper.make_graph(
            self.nodes,
            "zoo",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, *self.shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        model.metadata_props.add(key="origin", value="the zoo")
        return model


IMAGE = (3, 8, 8)


def plain() -> Net:
    return Net(IMAGE).conv(6, 3, 3, 3).add("Sigmoid").add("Flatten").dense(216)


def grouped() -> Net:
    net = Net(IMAGE).conv(8, 3, 3, 3, pads=[1, 1, 1, 1]).add("Relu")
    return net.conv(8, 2, 3, 3, group=4).add("Relu").add("Flatten").dense(288)


def depthwise() -> Net:
    net = Net(IMAGE).conv(8, 3, 1, 1).add("Relu").conv(8, 1, 3, 3, group=8).add("Relu").conv(4, 8, 1, 1)
    return net.add("GlobalAveragePool").add("Flatten").dense(4)


def transposed() -> Net:
    net = Net(IMAGE).conv(4, 3, 3, 3, strides=[2, 2]).add("Relu")
    net = net.conv(4, 3, 2, 2, op="ConvTranspose", bias=3, strides=[2, 2]).add("Tanh")
    return net.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2]).add("Flatten").dense(27)


def residual() -> Net:
    net = Net(IMAGE).conv(4, 3, 3, 3, pads=[1, 1, 1, 1]).add("Relu")
    before = net.last
    net = net.conv(4, 4, 3, 3, pads=[1, 1, 1, 1]).add("Add", before).add("Relu")
    return net.add("AveragePool", kernel_shape=[4, 4], strides=[4, 4]).add("Flatten").dense(16, turned=False)


def one_dimensional() -> Net:
    net = Net((2, 16)).conv(4, 2, 3).add("Relu").add("MaxPool", kernel_shape=[2], strides=[2])
    return net.add("Flatten").dense(28)


def mlp() -> Net:
    net = Net((12,)).dense(12, 16).add("Relu")
    product = net.weight("product", 16, 16, scale=0.25)
    return net.add("MatMul", product).add("Tanh").dense(16)


ZOO: dict[str, Callable[[], Net]] = {
    make.__name__: make for make in (plain, grouped, depthwise, transposed, residual, one_dimensional, mlp)
}


def images(net: Net, count: int = 96, seed: int = 5) -> Array:
    """Pictures of a sort: smooth, in [0, 1], all different (count, ...)."""
    rng = np.random.default_rng(seed)
    phases = rng.uniform(0, 6, size=(count, *net.shape[:-1], 1))
    waves = np.sin(phases + np.arange(net.shape[-1]) * rng.uniform(0.2, 2, size=phases.shape))
    return np.asarray((waves + 1) / 2, np.float32)
