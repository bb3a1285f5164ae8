"""Operators on constants: each row gives what ONNX's reference implementation gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from bn_deploy.folding.graph.evaluate import PURE
from bn_deploy.folding.graph.network import Network
from tests.fold_onnx.graphs import Array, run

R = np.random.default_rng(3).standard_normal
REAL, OTHER, POSITIVE = R((2, 3, 4)), R((3, 1)), np.abs(R((2, 3, 4))) + 0.1
WHOLE = np.array([[7, -7, 0], [2, 5, -3]])
TRUTH = np.array([[True, False, True]])


def ints(*numbers: int) -> Array:
    return np.array(numbers, dtype=np.int64)


Row = tuple[str, list[Any], dict[str, Any]]

ROWS: list[Row] = [
    # an operator, its constant inputs, its attributes
    *((name, [REAL], {}) for name in ("Abs", "Ceil", "Exp", "Floor", "Neg", "Reciprocal", "Relu", "Round")),
    *((name, [REAL], {}) for name in ("Sigmoid", "Sign", "Tanh", "Identity", "Transpose", "Shape", "Size")),
    *((name, [POSITIVE], {}) for name in ("Log", "Sqrt")),
    *((name, [WHOLE], {}) for name in ("Abs", "Neg", "Relu", "Sign")),
    *((name, [REAL, OTHER], {}) for name in ("Add", "Div", "Mul", "Sub", "Greater", "Less", "Equal")),
    *((name, [REAL, OTHER], {}) for name in ("GreaterOrEqual", "LessOrEqual")),
    *((name, [REAL, OTHER, REAL], {}) for name in ("Max", "Mean", "Min", "Sum")),
    *((name, [WHOLE, ints(3, -2, 4)], {}) for name in ("Add", "Div", "Mul", "Sub", "Mod", "Max", "Min")),
    *((name, [WHOLE, ints(2, 5, 0)], {}) for name in ("Equal", "Greater", "LessOrEqual")),
    *((name, [TRUTH, ~TRUTH], {}) for name in ("And", "Or", "Equal")),
    ("Not", [TRUTH], {}),
    ("Mod", [WHOLE, ints(3, -2, 4)], {"fmod": 1}),
    ("Pow", [POSITIVE, OTHER], {}),
    ("Pow", [REAL, ints(2)], {}),
    ("Clip", [REAL, np.array(-0.5), np.array(0.25)], {}),
    ("Clip", [REAL, None, np.array(0.25)], {}),
    ("Clip", [WHOLE, np.array(-2), None], {}),
    ("Where", [TRUTH, REAL[:, :, :3], OTHER], {}),
    ("Cast", [REAL], {"to": onnx.TensorProto.FLOAT}),
    ("Cast", [WHOLE], {"to": onnx.TensorProto.DOUBLE}),
    ("Cast", [REAL], {"to": onnx.TensorProto.BOOL}),
    ("Cast", [TRUTH], {"to": onnx.TensorProto.INT64}),
    ("CastLike", [WHOLE, REAL], {}),
    ("Constant", [], {"value": numpy_helper.from_array(REAL)}),
    ("Constant", [], {"value_float": 0.1}),
    ("Constant", [], {"value_floats": [0.1, 0.2]}),
    ("Constant", [], {"value_int": 3}),
    ("Constant", [], {"value_ints": [3, 4]}),
    ("ConstantOfShape", [ints(2, 3)], {}),
    ("ConstantOfShape", [ints(2, 3)], {"value": numpy_helper.from_array(ints(7))}),
    ("Concat", [REAL, REAL], {"axis": -2}),
    ("Expand", [OTHER, ints(2, 1, 4)], {}),
    ("Flatten", [REAL], {"axis": 2}),
    ("Flatten", [REAL], {"axis": -1}),
    ("Flatten", [REAL], {"axis": 0}),
    ("Gather", [REAL, ints(2, -1, 0)], {"axis": 1}),
    ("Gather", [REAL, np.array(-1)], {"axis": -1}),
    ("Gather", [REAL, WHOLE[1:, :1] - 1], {}),
    ("Range", [np.array(7), np.array(-3), np.array(-2)], {}),
    ("Reshape", [REAL, ints(0, -1)], {}),
    ("Reshape", [REAL, ints(4, 6)], {"allowzero": 1}),
    ("Slice", [REAL, ints(0, -1), ints(2, -9), ints(1, -1), ints(1, -2)], {}),
    ("Slice", [REAL, ints(1), ints(99)], {}),
    ("Squeeze", [OTHER, ints(-1)], {}),
    ("Squeeze", [OTHER], {}),
    ("Tile", [OTHER, ints(2, 3)], {}),
    ("Transpose", [REAL], {"perm": [1, 2, 0]}),
    ("Unsqueeze", [REAL, ints(0, -1)], {}),
    ("MatMul", [REAL, R((4, 2))], {}),
    (
        "Gemm",
        [R((3, 2)), R((4, 3)), R(4)[:2][:, None]],
        {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0},
    ),
    ("Gemm", [R((3, 2)), R((2, 4))], {}),
    ("Softmax", [REAL], {"axis": -1}),
    ("ReduceProd", [ints(3, 4, 5)], {"keepdims": 0}),
    ("BatchNormalization", [REAL, *np.abs(R((4, 3)))], {"epsilon": 0.01}),
    ("InstanceNormalization", [REAL, R(3), R(3)], {"epsilon": 0.01}),
    *(
        (f"Reduce{kind}", [REAL, *axes], {"keepdims": keep})
        for kind in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
        for axes, keep in (([ints(0, -1)], 1), ([ints(1)], 0), ([], 0))
    ),
]


def graph(row: Row) -> onnx.ModelProto:
    """A model that computes only `row`; left-out inputs are None."""
    op_type, arrays, attributes = row
    given = [("" if array is None else f"c{i}", array) for i, array in enumerate(arrays)]
    node = helper.make_node(op_type, [name for name, _ in given], ["y"], **attributes)
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in given if name]
    blank = onnx.ValueInfoProto(name="y")
    model = helper.make_model(
        helper.make_graph([node], "g", [], [blank], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    blank.CopyFrom(onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output[0])
    model.graph.output[0].CopyFrom(blank)
    return model


def evaluated(model: onnx.ModelProto) -> Array | None:
    """What the folding of graphs takes the output for."""
    parsed = ir.from_proto(model)
    constants = Network(parsed).constants
    value = parsed.graph.outputs[0]
    return constants.array(value) if constants.holds(value) else None


def name_of(row: Row) -> str:
    return f"{row[0]}-{len(row[1])}-{','.join(row[2])}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_it_gives_what_the_reference_gives(row: Row) -> None:
    model = graph(row)
    right = run(model, {})[0]
    found = evaluated(model)
    assert found is not None
    assert found.shape == right.shape
    assert found.dtype in {right.dtype, np.dtype(np.float64)}
    assert np.allclose(found, right, rtol=1e-13, atol=1e-15), row[0]


def test_every_operator_has_a_row() -> None:
    assert {op_type for op_type, _, _ in ROWS} == {*PURE, "Shape", "Size"}


UNKNOWN: list[Row] = [
    # what is not evaluated: numbers that platforms disagree on, or that no weight is made of
    ("Cast", [np.array([0.5, 1e30])], {"to": onnx.TensorProto.INT64}),
    ("Div", [ints(3), ints(0)], {}),
    ("Softmax", [REAL], {"axis": 1}),
    ("Expand", [OTHER, ints(1 << 12, 3, 1 << 12)], {}),
    ("Erf", [REAL], {}),
]


@pytest.mark.parametrize("row", UNKNOWN, ids=name_of)
def test_what_is_not_sure_is_not_known(row: Row) -> None:
    assert evaluated(graph(row)) is None


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_an_attribute_from_elsewhere_is_not_ignored(row: Row) -> None:
    model = graph(row)
    parsed = ir.from_proto(model)
    parsed.graph[0].attributes["secret"] = ir.AttrInt64("secret", 1)
    parsed.graph[0].outputs[0].type = ir.TensorType(parsed.graph.outputs[0].dtype or ir.DataType.DOUBLE)
    constants = Network(parsed).constants
    value = parsed.graph.outputs[0]
    assert not constants.holds(value) or constants.array(value) is None


def test_training_statistics_are_those_of_the_constant() -> None:
    """As a layer that standardises its weights with a batch norm of one of its own writes it."""
    array = R((1, 3, 8))
    one, zero = np.ones(3), np.zeros(3)
    names = [f"c{i}" for i in range(5)]
    node = helper.make_node("BatchNormalization", names, ["y", "m", "v"], training_mode=1, epsilon=0.5)
    constants = [
        numpy_helper.from_array(a, name) for name, a in zip(names, (array, one, zero, zero, one), strict=True)
    ]
    out = helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, array.shape)
    model = helper.make_model(
        helper.make_graph([node], "g", [], [out], constants), opset_imports=[helper.make_opsetid("", 18)]
    )
    found = evaluated(model)
    assert found is not None
    root = np.sqrt(array.var(axis=(0, 2), keepdims=True) + 0.5)
    assert np.allclose(found, (array - array.mean(axis=(0, 2), keepdims=True)) / root, rtol=1e-13)
