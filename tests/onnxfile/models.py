"""Small models with weights on both sides of the limit from which they are left where they lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 24


def model(layers: int = 2) -> onnx.ModelProto:
    """(n, 24, 5, 5) -> the same: convolutions with batch norms, 20 kB of weights each."""
    random = np.random.default_rng(0)
    nodes, constants, name = [], [], "x"
    for index in range(layers):
        arrays = {"w": random.standard_normal((CHANNELS, CHANNELS, 3, 3)).astype(np.float32)}
        arrays |= {key: random.standard_normal(CHANNELS).astype(np.float32) for key in "bghm"}
        arrays["v"] = random.uniform(0.5, 2, CHANNELS).astype(np.float32)
        names = [f"{key}{index}" for key in arrays]
        constants += [
            numpy_helper.from_array(array, n) for array, n in zip(arrays.values(), names, strict=True)
        ]
        nodes.append(helper.make_node("Conv", [name, *names[:2]], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("BatchNormalization", [f"c{index}", *names[2:]], [f"n{index}"]))
        nodes.append(helper.make_node("Tanh", [f"n{index}"], [f"t{index}"]))
        name = f"t{index}"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, 5, 5])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", CHANNELS, 5, 5])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def apart(folder: Path, name: str = "model.onnx", location: str = "weights.bin") -> Path:
    """The model with all its weights in another file; the first starts at an odd byte."""
    folder.mkdir(parents=True, exist_ok=True)
    proto = model()
    data = b"?"
    for tensor in proto.graph.initializer:
        place(tensor, location, len(data), len(tensor.raw_data))
        data += tensor.raw_data
        tensor.ClearField("raw_data")
    (folder / location).write_bytes(data)
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def place(tensor: onnx.TensorProto, location: str, offset: object = None, length: object = None) -> None:
    """Lets a tensor say that its content is elsewhere."""
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
