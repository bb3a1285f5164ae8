"""Two files are told apart by what they compute, not by how: rounding passes, each seeded fault does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import CheckFailed, Inconclusive
from bn_deploy.onnxfile.stored import Stored
from bn_deploy.verify.evaluation import NARROW, retype
from bn_deploy.verify.pair import PairParity, compare_models

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


def node(op: str, shape: list[str | int] | None, *constants: onnx.TensorProto) -> onnx.ModelProto:
    """One operator on an input of this shape and on constants."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *(constant.name for constant in constants)], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def compare(before: onnx.ModelProto, after: onnx.ModelProto) -> PairParity:
    stored = (Stored(Path(), model, {}, frozenset()) for model in (before, after))
    return compare_models(*stored)


def test_a_model_passes_against_itself() -> None:
    parity = compare(conv(WEIGHT, BIAS), conv(WEIGHT, BIAS))
    assert parity.rms == 0
    assert parity.rms_own > 0
    assert parity.passed


def test_weights_that_were_rounded_once_pass() -> None:
    exact = WEIGHT.astype(np.float64) * 3.7
    scaled = conv((exact / 3.7).astype(np.float32), BIAS)
    assert compare(conv(WEIGHT, BIAS), scaled).passed


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
    assert not compare(conv(WEIGHT, BIAS), conv(weight.astype(np.float32), bias.astype(np.float32))).passed


def test_nan_in_one_of_them_is_an_error() -> None:
    with pytest.raises(CheckFailed, match="NaN or infinity"):
        compare(conv(WEIGHT, BIAS), conv(WEIGHT * np.float32("nan"), BIAS))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (conv(WEIGHT, BIAS, op="Conf"), "does not run Conf"),
        (conv(WEIGHT, BIAS, channels=2), "does not run Conv"),
        (node("RandomNormalLike", ["n", 4]), "RandomNormalLike .* draws random numbers"),
        (node("Relu", None), "no tensor of numbers with a known rank"),
    ],
)
def test_what_cannot_be_run_is_not_judged(model: onnx.ModelProto, reason: str) -> None:
    with pytest.raises(Inconclusive, match=reason):
        compare(model, model)


def test_a_file_that_overflows_its_own_type_everywhere_cannot_be_judged() -> None:
    model = conv(WEIGHT, BIAS + np.float32(3e38))
    model.graph.node.append(helper.make_node("Mul", ["y", "y"], ["z"]))
    model.graph.output[0].name = "z"
    with pytest.raises(Inconclusive, match="in its own type"):
        compare(model, model)


def test_each_probe_counts_by_its_own_size() -> None:
    # Where the input is large, rounding alone is a thousand times more than this shift.
    shifted = BIAS + np.float32(1e-5)
    parity = compare(conv(WEIGHT, BIAS), conv(WEIGHT, shifted))
    assert not parity.passed


def test_all_probes_are_one_batch_and_one_is_alone() -> None:
    parity = compare(conv(WEIGHT, BIAS), conv(WEIGHT, BIAS))
    assert (parity.probes, parity.batches) == (8, (1, 7))
    fixed = conv(WEIGHT, BIAS)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    parity = compare(fixed, fixed)
    assert (parity.probes, parity.batches) == (7, ())


def test_a_file_that_takes_one_row_only_is_run_row_by_row() -> None:
    model = node("Reshape", ["n", 4], numpy_helper.from_array(np.array([2, 2]), "shape"))
    parity = compare(model, model)
    assert (parity.probes, parity.batches) == (7, (1,))


@pytest.mark.parametrize(("dtype", "step"), [(np.float64, 1e-12), (np.float16, 0.01)])
def test_other_types_are_judged_by_what_they_round(dtype: type[np.generic], step: float) -> None:
    def model(bias: np.ndarray, scale: float) -> onnx.ModelProto:
        # A convolution, then what a batch norm would do; or both in one.
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        weights = {
            "w": WEIGHT.astype(np.float64) * scale,
            "b": bias * scale,
            "s": np.full((4, 1, 1), 3.7 / scale),
        }
        graph = helper.make_graph(
            [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Mul", ["c", "s"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("y", kind, ["n", 4, 6, 6])],
            [numpy_helper.from_array(array.astype(dtype), name) for name, array in weights.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    exact = BIAS.astype(np.float64)
    plain = model(exact, 1.0)
    assert compare(plain, model(exact, 3.7)).passed
    assert not compare(plain, model(exact + step, 3.7)).passed


@pytest.mark.parametrize(("ulps", "passes"), [(0, True), (1, True), (3, False)])
def test_where_nothing_is_rounded_weights_may_be_rounded_once(ulps: int, *, passes: bool) -> None:
    def model(moved: int) -> onnx.ModelProto:
        # 0 x + w is exact. Just below 2 the distance of two numbers is one rounding error.
        weights = np.full(64, 1.999, np.float32) + np.float32(moved * 2.0**-23)
        made = node("Mul", ["n", 64], numpy_helper.from_array(np.zeros(64, np.float32), "zero"))
        made.graph.node[0].output[0] = "nothing"
        made.graph.node.append(helper.make_node("Add", ["nothing", "w"], ["y"]))
        made.graph.initializer.append(numpy_helper.from_array(weights, "w"))
        return made

    parity = compare(model(0), model(ulps))
    assert parity.passed == passes
    assert (parity.rms_own > 0) == (ulps > 0)


def test_a_double_file_with_narrow_constants_is_judged_as_a_double_file() -> None:
    model = node("Mul", ["n", 4], numpy_helper.from_array(BIAS.astype(np.float64), "b"))
    model.graph.initializer.append(numpy_helper.from_array(BIAS, "unused"))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    assert 0 < compare(model, model).rms_own < 1e-15


def test_graphs_inside_operators_see_what_is_around_them() -> None:
    result = helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["n", 4])
    branch = helper.make_graph([helper.make_node("Add", ["x", "b"], ["inner"])], "i", [], [result])
    model = node("Identity", ["n", 4], numpy_helper.from_array(BIAS, "b"))
    del model.graph.node[:]
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch))
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(BIAS * np.float32(1.001), "b"))
    assert compare(model, model).passed
    assert not compare(model, other).passed


def test_widening_leaves_integers_alone() -> None:
    model = conv(WEIGHT, BIAS)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "shape"))
    retype(model, NARROW, TensorProto.DOUBLE)
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds == {"w": TensorProto.DOUBLE, "b": TensorProto.DOUBLE, "shape": TensorProto.INT64}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.DOUBLE
