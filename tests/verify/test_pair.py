"""Two files are told apart by what they compute, not by how: rounding passes, each seeded fault does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import CheckFailed, InputError
from bn_deploy.verify.pair import compare_files, widened

GENERATOR = np.random.default_rng(3)
WEIGHT = GENERATOR.standard_normal((4, 3, 3, 3)).astype(np.float32)
BIAS = GENERATOR.standard_normal(4).astype(np.float32)


def conv(weight: np.ndarray, bias: np.ndarray, *, op: str = "Conv", channels: int = 3) -> onnx.ModelProto:
    """(N, 3, 8, 8) -> (N, 4, 6, 6), one convolution."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w", "b"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_a_model_passes_against_itself() -> None:
    parity = compare_files(conv(WEIGHT, BIAS), conv(WEIGHT, BIAS))
    assert parity.rms == 0
    assert parity.rms_own > 0
    assert parity.passed


def test_weights_that_were_rounded_once_pass() -> None:
    exact = WEIGHT.astype(np.float64) * 3.7
    scaled = conv((exact / 3.7).astype(np.float32), BIAS)
    assert compare_files(conv(WEIGHT, BIAS), scaled).passed


FAULTS = {
    "one weight off by 1 %": lambda w, b: (np.where(np.arange(w.size).reshape(w.shape) == 5, w * 1.01, w), b),
    "shift dropped": lambda w, b: (w, b * 0),
    "one channel zeroed": lambda w, b: (w * np.array([1, 1, 0, 1]).reshape(4, 1, 1, 1), b),
    "channels swapped": lambda w, b: (w[[1, 0, 2, 3]], b),
    "kernel transposed": lambda w, b: (w.transpose(0, 1, 3, 2), b),
    "scale off by 0.01 %": lambda w, b: (w * 1.0001, b),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_does_not_pass(fault: str) -> None:
    weight, bias = FAULTS[fault](WEIGHT, BIAS)
    assert not compare_files(
        conv(WEIGHT, BIAS), conv(weight.astype(np.float32), bias.astype(np.float32))
    ).passed


def test_nan_in_one_of_them_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="NaN or infinity"):
        compare_files(conv(WEIGHT, BIAS), conv(WEIGHT * np.float32("nan"), BIAS))


def test_what_the_reference_implementation_cannot_run_is_said() -> None:
    with pytest.raises(InputError, match="cannot be checked"):
        compare_files(conv(WEIGHT, BIAS), conv(WEIGHT, BIAS, op="Conf"))


def test_widening_leaves_integers_and_the_original_alone() -> None:
    model = conv(WEIGHT, BIAS)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "shape"))
    before = model.SerializeToString()
    wide = widened(model)
    kinds = {t.name: t.data_type for t in wide.graph.initializer}
    assert kinds == {"w": TensorProto.DOUBLE, "b": TensorProto.DOUBLE, "shape": TensorProto.INT64}
    assert wide.graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
    assert model.SerializeToString() == before
