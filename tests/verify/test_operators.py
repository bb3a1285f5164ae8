"""Convolution and pooling in float64 are what ONNX Runtime computes in float32, up to its rounding."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.onnxfile.stored import Stored
from bn_deploy.verify.evaluation import NARROW, Evaluation

X = (2, 4, 9, 10)
POOLS = ("MaxPool", "AveragePool")


def cases() -> list[tuple[str, list[tuple[int, ...]], dict[str, Any]]]:
    """Operator, shapes of input and weights, attributes."""
    rows: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = []
    for pads, strides, dilations in itertools.product(
        ([0] * 4, [1, 2, 0, 1]), ([1, 1], [2, 3]), ([1, 1], [2, 1])
    ):
        about: dict[str, Any] = {"pads": pads, "strides": strides, "dilations": dilations}
        for group in (1, 2):
            rows.append(("Conv", [X, (6, 4 // group, 3, 2), (6,)], {**about, "group": group}))
            rows.append(("ConvTranspose", [X, (4, 3, 3, 2), (3 * group,)], {**about, "group": group}))
        rows += [(op, [X], {**about, "kernel_shape": [3, 3]}) for op in POOLS]
    for auto_pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
        about = {"auto_pad": auto_pad, "strides": [2, 2]}
        rows.append(("Conv", [X, (6, 4, 3, 2)], about))
        rows.append(("ConvTranspose", [X, (4, 3, 3, 3)], about))
        rows += [(op, [X], {**about, "kernel_shape": [3, 3]}) for op in POOLS]
    return [
        *rows,
        ("Conv", [(2, 4, 9), (4, 1, 3)], {"group": 4}),
        ("Conv", [(2, 4, 5, 6, 7), (4, 4, 3, 2, 2)], {"pads": [1] * 6}),
        ("ConvTranspose", [X, (4, 3, 3, 3)], {"strides": [2, 2], "output_padding": [1, 0]}),
        ("ConvTranspose", [X, (4, 3, 3, 3)], {"strides": [2, 2], "output_shape": [18, 21]}),
        ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}),
        ("AveragePool", [(2, 4, 6)], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
        ("MaxPool", [(2, 4, 6)], {"kernel_shape": [3], "strides": [2], "ceil_mode": 1}),
    ]


@pytest.mark.parametrize(("op", "shapes", "attributes"), cases())
def test_operators_are_those_of_onnx(
    op: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any]
) -> None:
    random = np.random.default_rng(0)
    x, *weights = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    names = [f"w{index}" for index in range(len(weights))]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(array, name) for name, array in zip(names, weights, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    inferred = onnx.shape_inference.infer_shapes(model).SerializeToString()
    session = onnxruntime.InferenceSession(inferred, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": x})[0]
    (found,) = Evaluation(Stored(Path(), model, {}, frozenset()), NARROW).run({"x": x})
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    # Sums of at most 24 products of numbers around 1, in float32.
    assert np.abs(found - expected).max() <= 24 * np.finfo(np.float32).eps * max(1, np.abs(expected).max())


def test_half_precision_is_added_up_in_float32() -> None:
    x, w = np.full((1, 2048, 1), 1, np.float16), np.full((1, 2048, 1), 1.001, np.float16)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 1, 1])],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (found,) = Evaluation(Stored(Path(), model, {}, frozenset())).run({"x": x})
    assert found.dtype == np.float16
    assert found.item() == np.float16(2048 * float(w[0, 0, 0]))
