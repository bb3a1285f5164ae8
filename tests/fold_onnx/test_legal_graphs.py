"""Graphs that are legal and rare: each folds, or stays, and computes the same by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.fold_onnx.files import IMAGE, bn, judged
from tests.fold_onnx.graphs import Net

FLOAT = TensorProto.FLOAT


def inner(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("q",)) -> onnx.GraphProto:
    """A branch that takes what it needs from around it."""
    return helper.make_graph(
        list(nodes), "branch", [], [helper.make_tensor_value_info(n, FLOAT, None) for n in outputs]
    )


def either(net: Net, *nodes: onnx.NodeProto) -> str:
    return str(net.op("If", net.const(np.array(True)), then_branch=inner(*nodes), else_branch=inner(*nodes)))


def weight_inside(net: Net) -> list[str]:
    """A weight that a branch uses as it is."""
    weight = net.normal(4, 4, 1, 1)
    y = bn(net, net.op("Conv", "x", weight))
    return [y, either(net, helper.make_node("Conv", ["x", weight], ["q"]))]


def value_inside(net: Net) -> list[str]:
    """What feeds a batch norm is used inside a branch, where nobody would see that it changes."""
    y = net.conv("x", 4, 4)
    return [bn(net, y), either(net, helper.make_node("Relu", [y], ["q"]))]


def scanned(net: Net) -> list[str]:
    infos = {name: helper.make_tensor_value_info(name, FLOAT, None) for name in ("s", "e", "t", "o")}
    nodes = [helper.make_node("Add", ["s", "e"], ["t"]), helper.make_node("Identity", ["t"], ["o"])]
    body = helper.make_graph(nodes, "body", [infos["s"], infos["e"]], [infos["t"], infos["o"]])
    y = bn(net, net.conv("x", 4, 4))
    return list(net.op("Scan", net.normal(4, 6, 6), y, body=body, num_scan_inputs=1, outputs=2))


def a_weight_is_an_output(net: Net) -> list[str]:
    weight = net.normal(4, 4, 1, 1)
    y = bn(net, net.op("Conv", "x", weight))
    return [y, str(net.op("Identity", weight))]


def one_number_for_all(net: Net) -> list[str]:
    """The scale, shift, mean and variance are one tensor, and a bias as well."""
    numbers = net.const(net.random.uniform(0.5, 2, 4))
    y = net.op("Conv", "x", net.normal(4, 4, 1, 1), numbers)
    y = net.op("BatchNormalization", y, *[numbers] * 4)
    return [str(net.op("Conv", y, net.normal(4, 4, 1, 1), numbers))]


def left_out(net: Net) -> list[str]:
    """Inputs that are there by name only."""
    y = bn(net, net.op("Conv", "x", net.normal(4, 4, 1, 1), ""))
    z = bn(net, net.op("Gemm", net.op("Flatten", "x"), net.normal(144, 4), ""))
    axes = net.const(np.array([-1, -2]))
    padded = net.op("Pad", net.conv("x", 4, 4), net.const(np.array([1, 1, 1, 1])), "", axes, mode="edge")
    sizes = net.const(np.array([2, 4, 9, 7]))
    resized = net.op("Resize", net.conv("x", 4, 4), "", "", sizes, mode="linear")
    clipped = net.op("Clip", net.conv("x", 4, 4), net.const(0.0), "")
    scale = net.const(np.array([1.0, 2, 3, 4]).reshape(4, 1, 1))
    return [y, z, bn(net, padded), bn(net, resized), net.op("Mul", clipped, scale)]


def doubled(net: Net) -> list[str]:
    """A value that is added to itself, as the one operand and the other."""
    y, z = net.conv("x", 4, 4), bn(net, "x")
    return [bn(net, net.op("Add", y, y)), net.conv(net.op("Add", z, z), 4, 4)]


def quantized(net: Net) -> list[str]:
    """Rounded to whole numbers before and after a convolution of whole numbers: nothing may move."""
    scale, zero = net.const(0.1), net.const(np.array(3, np.int8))

    def q(y: str) -> str:
        return str(net.op("DequantizeLinear", net.op("QuantizeLinear", y, scale, zero), scale, zero))

    whole = net.const(net.random.integers(-50, 50, (4, 4, 3, 3)).astype(np.int8))
    weight = net.op("DequantizeLinear", whole, net.const(0.02), net.const(np.array(0, np.int8)))
    y = net.op("Conv", q("x"), weight)
    return [bn(net, y), bn(net, q(net.conv("x", 4, 4))), net.conv(q(bn(net, "x")), 4, 4)]


def of_the_same_size(net: Net) -> list[str]:
    """Transposed convolutions whose padding follows from the size that is asked for."""
    more: list[dict[str, Any]] = [
        {"output_shape": [13, 14]},
        {"auto_pad": "SAME_UPPER"},
        {"auto_pad": "SAME_LOWER"},
    ]
    return [
        bn(net, net.op("ConvTranspose", "x", net.normal(4, 4, 3, 3), strides=[2, 2], **attributes))
        for attributes in more
    ]


def rounded_up(net: Net) -> list[str]:
    """Windows beyond the input count as padding, or do not."""
    return [
        bn(
            net,
            net.op("AveragePool", net.conv("x", 4, 4), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, **a),
        )
        for a in (
            {},
            {"count_include_pad": 1},
            {"pads": [1] * 4},
            {"pads": [0, 0, 1, 1], "count_include_pad": 1},
        )
    ]


def long_names(net: Net) -> list[str]:
    name = "n" * 5000
    net.nodes.append(helper.make_node("Conv", ["x", net.normal(4, 4, 1, 1)], [name], name=name))
    return [bn(net, name)]


def taken_names(net: Net) -> list[str]:
    """The names that new weights would get are those of other values."""
    net.constants |= {"w": net.random.standard_normal((4, 4, 1, 1)).astype(np.float32)}
    net.constants |= {"w.folded": net.random.standard_normal(4).astype(np.float32)}
    y = net.op("Conv", "x", "w", "w.folded")
    net.nodes.append(
        helper.make_node("BatchNormalization", [y, *["w.folded"] * 3, "w.folded_2"], ["w.folded_1"])
    )
    net.constants["w.folded_2"] = np.ones(4, np.float32)
    return ["w.folded_1"]


def read_by_size(net: Net) -> list[str]:
    y = bn(net, net.conv("x", 4, 4))
    return [y, str(net.op("Cast", net.op("Shape", y), to=FLOAT))]


CASES: dict[str, tuple[Callable[[Net], list[str]], int, int]] = {
    # what is legal, and how many batch norms fold and stay
    "a weight inside a branch": (weight_inside, 1, 0),
    "a value inside a branch": (value_inside, 0, 1),
    "a scan over what comes out": (scanned, 1, 0),
    "a weight is an output": (a_weight_is_an_output, 1, 0),
    "one number for all": (one_number_for_all, 1, 0),
    "inputs left out": (left_out, 5, 0),
    "doubled": (doubled, 2, 0),
    "quantized": (quantized, 0, 3),
    "of the same size": (of_the_same_size, 3, 0),
    "rounded up": (rounded_up, 2, 2),
    "long names": (long_names, 1, 0),
    "taken names": (taken_names, 1, 0),
    "read by size": (read_by_size, 1, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_legal_file(case: str, tmp_path: Path) -> None:
    build, folds, stays = CASES[case]
    net = Net(IMAGE, dtype=np.float32)
    model = net.model(*build(net))
    report = judged(model, net.feeds(), tmp_path)
    assert (len(report.folded), len(report.kept)) == (folds, stays), report


@pytest.mark.parametrize("opset", range(7, 26))
def test_every_operator_set(opset: int, tmp_path: Path) -> None:
    net = Net(IMAGE, dtype=np.float32, opset=opset)
    old: dict[str, Any] = {"momentum": 0.9, **({"spatial": 1} if opset < 9 else {})}
    y = net.op("MaxPool", bn(net, net.conv("x", 4, 4), **old), kernel_shape=[2, 2])
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    given = {"pads": pads} if opset < 11 else {}
    y = net.op("Pad", y, *([] if given else [net.const(np.array(pads))]), mode="reflect", **given)
    scales = net.const([1, 1, 2, 2], np.float32)
    nothing = "" if opset > 12 else net.const(np.zeros(0))
    if opset < 9:
        y = net.op("Upsample", y, scales=[1.0, 1, 2, 2], mode="nearest")
    elif opset == 9:
        y = net.op("Upsample", y, scales, mode="nearest")
    else:
        y = net.op("Resize", y, *([] if opset == 10 else [nothing]), scales, mode="nearest")
    y = net.op("Dropout", y, ratio=0.5) if opset < 12 else net.op("Dropout", y, net.const(0.5))
    y = net.op("GlobalAveragePool", bn(net, y))
    axes: dict[str, Any] = {"axes": [2, 3]} if opset < 13 else {}
    y = net.op("Squeeze", y, *([] if axes else [net.const(np.array([2, 3]))]), **axes)
    model = net.model(bn(net, y), ir_version=3 if opset < 9 else 8)
    report = judged(model, net.feeds(), tmp_path)
    assert (len(report.folded), len(report.kept)) == (3, 0), report
