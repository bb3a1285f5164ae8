"""Each refusal, on a graph that differs in one thing from one that folds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from bn_deploy.fold.graph import fold_model
from tests.fold_onnx.graphs import Net, assert_faithful, assert_folds, assert_keeps, census, folded

IMAGE = ("N", 4, 6, 6)
Build = Callable[[Net], "str | tuple[str, ...]"]


def tanh(net: Net, y: str) -> str:
    """Nothing passes it: what is before it has to be absorbed there."""
    return str(net.op("Tanh", y))


def conv(net: Net) -> str:
    return net.conv("x", 4, 8, 3, pads=[1] * 4)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


REFUSED: dict[str, tuple[Build, str]] = {
    "it is fed by an input": (lambda n: tanh(n, n.bn("x", 4)), "it is fed by x, an input of the network"),
    "nonlinear before": (lambda n: tanh(n, n.bn(n.op("Sigmoid", conv(n)), 8)), "a Sigmoid, neither absorbs"),
    "nonlinear after": (lambda n: tanh(n, n.bn("x", 4)), "a Tanh, neither absorbs"),
    "an output, too": (lambda n: ((y := conv(n)), tanh(n, n.bn(y, 8))), "is also an output of the network"),
    "read twice": (
        lambda n: ((y := conv(n)), (tanh(n, y), tanh(n, n.bn(y, 8))))[1],
        "is used 2 times",
    ),
    "read by two batch norms": (
        lambda n: ((y := conv(n)), (tanh(n, n.bn(y, 8)), tanh(n, n.bn(y, 8))))[1],
        "is used 2 times",
    ),
    "weights vary": (
        lambda n: tanh(
            n,
            n.bn(
                n.op("Conv", "x", n.op("Exp", n.op("Slice", "x", index(n, 0), index(n, 1), index(n, 0)))), 1
            ),
        ),
        "the weights of n_conv2 are not constant",
    ),
    "rectified": (lambda n: tanh(n, n.bn(n.op("Relu", conv(n)), 8)), "a shift does not pass n_relu1, a Relu"),
    "negative scale": (
        lambda n: tanh(n, n.bn(n.op("MaxPool", conv(n), kernel_shape=[2, 2]), 8)),
        "a negative scale does not pass n_maxpool1",
    ),
    "indices used": (
        lambda n: (lambda parts: (tanh(n, n.bn(parts[0], 8, positive=True)), parts[1]))(
            n.op("MaxPool", conv(n), kernel_shape=[2, 2], outputs=2)
        ),
        "the indices of n_maxpool1 are used",
    ),
    "zeros counted": (
        lambda n: tanh(
            n, n.bn(n.op("AveragePool", conv(n), kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1), 8)
        ),
        "averages over padded zeros",
    ),
    "zeros counted, same size": (
        lambda n: tanh(
            n,
            n.bn(
                n.op("AveragePool", conv(n), kernel_shape=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
                8,
            ),
        ),
        "averages over padded zeros",
    ),
    "zeros padded": (
        lambda n: tanh(n, n.bn(n.op("Pad", conv(n), index(n, 0, 0, 1, 1, 0, 0, 1, 1)), 8)),
        "pads with a constant",
    ),
    "ones padded": (
        lambda n: tanh(n, n.scale(n.op("Pad", conv(n), index(n, 0, 0, 1, 1, 0, 0, 1, 1), n.const(1.0)), 8)),
        "pads with a constant",
    ),
    "channels padded": (
        lambda n: tanh(n, n.bn(n.op("Pad", conv(n), index(n, 0, 1, 0, 0, 0, 1, 0, 0), mode="edge"), 10)),
        "mixes elements",
    ),
    "cubic": (
        lambda n: tanh(
            n, n.bn(n.op("Resize", conv(n), "", n.const([1, 1, 2, 2], np.float32), mode="cubic"), 8)
        ),
        "resizes in mode cubic",
    ),
    "channels resized": (
        lambda n: tanh(n, n.bn(n.op("Resize", conv(n), "", n.const([1, 2, 1, 1], np.float32)), 16)),
        "mixes elements",
    ),
    "gated": (
        lambda n: tanh(n, n.bn(n.op("Mul", conv(n), n.op("Sigmoid", n.conv("x", 4, 8))), 8)),
        "a shift does not pass n_mul3, a Mul",
    ),
    "one branch cannot": (
        lambda n: tanh(n, n.bn(n.op("Concat", conv(n), n.op("Tanh", "x"), axis=1), 12)),
        "a Tanh, neither absorbs",
    ),
    "one operand cannot": (
        lambda n: tanh(n, n.bn(n.op("Add", conv(n), n.op("Tanh", n.conv("x", 4, 8))), 8)),
        "a Tanh, neither absorbs",
    ),
    "channels broadcast": (
        lambda n: tanh(n, n.bn(n.op("Add", conv(n), n.conv("x", 4, 1)), 8)),
        "broadcast along its channels",
    ),
    "along positions": (
        lambda n: tanh(n, n.bn(n.op("Transpose", conv(n), perm=[0, 2, 1, 3]), 6)),
        "the map varies along axes [2], not along axis 1 alone",
    ),
    "flattened": (
        lambda n: tanh(n, n.bn(n.op("Flatten", conv(n)), 8 * 36)),
        "the map varies along axes [1, 2, 3]",
    ),
    "matmul along rows": (
        lambda n: tanh(n, n.bn(n.op("MatMul", conv(n), n.normal(6, 6)), 8)),
        "the map varies along axes [1], not along axis 3",
    ),
    "blocks differ": (
        lambda n: tanh(n, n.bn(n.op("SpaceToDepth", n.conv("x", 4, 2), blocksize=2), 8)),
        "the same channel is used twice with different maps",
    ),
    "gathered twice": (
        lambda n: tanh(n, n.bn(n.op("Gather", conv(n), index(n, 0, 0), axis=1), 2)),
        "the same channel is used twice with different maps",
    ),
    "gated after": (
        lambda n: n.conv(n.op("Mul", n.op("Sigmoid", "x"), n.bn("x", 4)), 4, 3),
        "a shift does not pass n_mul2, a Mul",
    ),
    "padded after": (lambda n: n.conv(n.bn("x", 4), 4, 3, 3, pads=[0, 0, 0, 1]), "pads its input with zeros"),
    "same size after": (
        lambda n: n.conv(n.bn("x", 4), 4, 3, 3, auto_pad="SAME_LOWER"),
        "pads its input with zeros",
    ),
    "transposed after": (
        lambda n: n.op("ConvTranspose", n.bn("x", 4), n.normal(4, 2, 2, 2)),
        "see parts of its kernel",
    ),
    "one reader cannot": (
        lambda n: ((y := n.bn("x", 4)), (n.conv(y, 4, 3), tanh(n, y)))[1],
        "a Tanh, neither absorbs",
    ),
    "an output after": (
        lambda n: ((y := n.bn("x", 4)), n.conv(y, 4, 3)),
        "batchnormalization0 is also an output",
    ),
    "one operand scaled": (
        lambda n: n.conv(n.op("Add", n.bn("x", 4), n.op("Tanh", "x")), 4, 3),
        "only one operand of n_add2 is scaled",
    ),
    "as the weights": (
        lambda n: n.op("MatMul", n.op("Tanh", "x"), n.bn("x", 4)),
        "the weights of n_matmul2 are not constant",
    ),
    "mean over channels": (
        lambda n: tanh(n, n.op("ReduceMean", n.bn("x", 4), index(n, 1))),
        "mixes elements",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kept_with_the_reason(case: str) -> None:
    build, reason = REFUSED[case]
    net = Net(IMAGE if case != "weights vary" else (2, 4, 6, 6))
    outputs = build(net)
    assert_keeps(net, *([outputs] if isinstance(outputs, str) else outputs), because=reason)


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
    model.graph[0].domain = "com.example"
    assert "the type of its output is not known" in fold_model(model).kept[0].reason


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
