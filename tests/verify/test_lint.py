"""Batch statistics are read off a graph; what reduces over other axes is left in peace."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.spec import Stage
from bn_deploy.verify.lint import batch_statistics
from tests.lenets import onnx_bytes


def graph(*nodes: onnx.NodeProto, batch: str | int = "n", **constants: Any) -> onnx.ModelProto:
    """x (batch, 3, 8, 8) -> y."""
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def reduce(op: str = "ReduceMean", *, source: str = "x", **more: Any) -> onnx.NodeProto:
    return helper.make_node(op, [source, *more.pop("inputs", ["axes"])], ["y"], name="reduction", **more)


NORM: dict[str, Any] = {"s": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}
INPUTS = ["x", "s", "b", "b", "s"]


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (graph(reduce(), axes=[0]), "reduction: ReduceMean over the images of the batch"),
        (graph(reduce(), axes=[0, 2, 3]), "ReduceMean"),
        (graph(reduce(), axes=[-4]), "ReduceMean"),
        (graph(reduce("ReduceSum"), axes=[0], batch=1), "ReduceSum"),
        (graph(reduce("ReduceMax", inputs=[])), "ReduceMax"),  # no axes: all of them
        (graph(helper.make_node("Relu", ["x"], ["r"]), reduce(source="r"), axes=[0, 2, 3]), "ReduceMean"),
        (
            graph(helper.make_node("BatchNormalization", INPUTS, ["y", "m", "v"], training_mode=1), **NORM),
            "y: BatchNormalization in training mode",
        ),
        (graph(reduce(), axes=[1]), None),
        (graph(reduce(), axes=[2, 3]), None),
        (graph(reduce(inputs=[], noop_with_empty_axes=1)), None),
        (graph(reduce(source="s"), axes=[0], **NORM), None),  # of a weight, not of the images
        (graph(helper.make_node("BatchNormalization", INPUTS, ["y"]), **NORM), None),
        (
            graph(
                helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]), reduce(source="t"), axes=[0]
            ),
            None,
        ),
    ],
)
def test_what_mixes_the_images_of_a_batch_is_found(model: onnx.ModelProto, found: str | None) -> None:
    seen = batch_statistics(model)
    assert len(seen) == (found is not None)
    assert found is None or found in seen[0]


@pytest.mark.parametrize("stage", [Stage.CONVERTED, Stage.FOLDED])
def test_what_we_export_has_none(stage: Stage) -> None:
    assert batch_statistics(onnx.load_model_from_string(onnx_bytes(stage))) == []
