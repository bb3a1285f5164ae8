"""Refusals that are a matter of the model around a batch norm, and of its own numbers and attributes."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from bn_deploy.folding.graph.driver import fold_model
from tests.fold_onnx.graphs import Net, assert_faithful, assert_folds, assert_keeps, census, folded

IMAGE = ("N", 4, 6, 6)


def tanh(net: Net, y: str) -> str:
    """Nothing passes it: what is before it has to be absorbed there."""
    return str(net.op("Tanh", y))


def conv(net: Net) -> str:
    return net.conv("x", 4, 8, 3, pads=[1] * 4)


def graph_of(net: Net, output: str) -> ir.Model:
    return ir.from_proto(net.model(output))


def base() -> tuple[Net, str]:
    net = Net(IMAGE)
    return net, net.bn(conv(net), 8)


def batchnorm(model: ir.Model) -> ir.Node:
    return next(node for node in model.graph if node.op_type == "BatchNormalization")


def test_training_mode() -> None:
    net = Net(IMAGE)
    y = conv(net)
    numbers = [net.const(array) for array in net.numbers(8)]
    y = net.op("BatchNormalization", y, *numbers, training_mode=1, outputs=3)[0]
    _, report = folded(net.model(y))
    (entry,) = report.kept
    assert "training mode" in entry.reason


def test_an_unknown_attribute() -> None:
    for op_type, name in (
        ("BatchNormalization", "spatial_size"),
        ("Conv", "secret"),
        ("AveragePool", "secret"),
    ):
        net = Net(IMAGE)
        y = net.bn(net.op("AveragePool", conv(net), kernel_shape=[2, 2]), 8)
        model = graph_of(net, y)
        node = next(node for node in model.graph if node.op_type == op_type)
        node.attributes[name] = ir.AttrInt64(name, 1)
        (entry,) = fold_model(model).kept
        assert name in entry.reason


def test_another_domain() -> None:
    net, y = base()
    model = graph_of(net, y)
    node = model.graph[0]
    node.domain, model.opset_imports["com.example"] = "com.example", 1
    node.outputs[0].shape, node.outputs[0].type = ir.Shape(["N", 8, 6, 6]), ir.TensorType(ir.DataType.DOUBLE)
    assert "n_conv0, a Conv, neither absorbs" in fold_model(model).kept[0].reason


def test_an_opset_that_is_not_known() -> None:
    net, y = base()
    model = graph_of(net, y)
    model.opset_imports[""] = 6
    assert "opset 6 is not among those that are known" in fold_model(model).kept[0].reason


@pytest.mark.parametrize(
    ("place", "number", "reason"),
    [
        (4, -1.0, "has no root"),
        (4, np.nan, "running_var is not finite"),
        (3, np.inf, "running_mean is not finite"),
        (1, np.nan, "weight is not finite"),
    ],
)
def test_numbers_that_define_no_map(place: int, number: float, reason: str) -> None:
    net = Net(IMAGE)
    numbers = list(net.numbers(8))
    numbers[place - 1][2] = number
    y = net.op("BatchNormalization", conv(net), *map(net.const, numbers))
    _, report = folded(net.model(y))
    assert reason in report.kept[0].reason


def test_weights_that_are_not_finite() -> None:
    net, y = base()
    net.constants["c0"][0] = np.inf
    _, report = folded(net.model(y))
    assert "are not finite numbers" in report.kept[0].reason


def test_parameters_that_vary() -> None:
    net = Net(IMAGE, (8,))
    _, *rest = (net.const(array) for array in net.numbers(8))
    y = net.op("BatchNormalization", conv(net), "x1", *rest)
    assert_keeps(net, y, because="its weight is not constant")


def test_an_initializer_that_a_caller_may_override() -> None:
    net, y = base()
    model = net.model(y)
    weight = next(i for i in model.graph.initializer if i.name == "c0")
    model.graph.input.append(helper.make_tensor_value_info("c0", weight.data_type, weight.dims))
    after, report = folded(model)
    assert "the weights of n_conv0 are not constant" in report.kept[0].reason
    assert "c0" in [value.name for value in after.graph.input]


def test_in_the_oldest_files_every_initializer_is_an_input() -> None:
    net, y = base()
    after, report = assert_faithful(net, y, ir_version=3)
    assert report.folded
    assert {value.name for value in after.graph.input} == {"x", *(i.name for i in after.graph.initializer)}


def branches(captured: str, *, inner: bool) -> onnx.GraphProto:
    """A branch that reads `captured`, with a batch norm of its own if `inner`."""
    nodes = [helper.make_node("Tanh", [captured], ["t"], name="inner_tanh")]
    if inner:
        nodes.append(
            helper.make_node("BatchNormalization", ["t", "c2", "c3", "c4", "c5"], ["b"], name="inner_bn")
        )
    name = "b" if inner else "t"
    return helper.make_graph(
        nodes, "branch", [], [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["N", 8, 6, 6])]
    )


@pytest.mark.parametrize("inner", [False, True])
def test_subgraphs(inner: bool) -> None:
    net, y = base()
    captured = "batchnormalization1" if inner else "conv0"
    flag = net.const(np.array(True))
    z = net.op(
        "If", flag, then_branch=branches(captured, inner=inner), else_branch=branches(captured, inner=inner)
    )
    _, report = assert_faithful(net, y, z)
    if inner:
        assert [entry.site.batchnorm for entry in report.folded] == ["n_batchnormalization1"]
        assert [entry.reason for entry in report.kept] == [
            "it is inside a subgraph, such as the branch of an If or the body of a Loop"
        ] * 2
    else:
        assert "conv0 is also used inside a subgraph" in report.kept[0].reason


def test_functions_are_inlined() -> None:
    net, y = base()
    model = net.model(y)
    node = model.graph.node[1]
    numbers = ["x", "s", "b", "m", "v"]
    body = helper.make_node("BatchNormalization", numbers, ["y"], name="bn")
    opsets = [helper.make_opsetid("", net.opset)]
    model.functions.append(helper.make_function("local", "Normal", numbers, ["y"], [body], opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    node.op_type, node.domain = "Normal", "local"
    after, report = folded(model)
    assert len(report.folded) == 1
    assert census(after) == {"Conv": 1}


def test_each_reason_differs_in_one_thing_from_what_folds() -> None:
    net, y = base()
    assert_folds(net, tanh(net, y), left={"Conv": 1, "Tanh": 1})
