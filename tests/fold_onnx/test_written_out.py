"""Batch norms that are written out in elementwise nodes, in any style, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.fold_onnx.graphs import Net, assert_faithful, assert_folds, census, folded, untouched

IMAGE = ("N", 4, 6, 6)
EPS = 1e-5


def numbers(net: Net, *, flat: bool = False) -> list[str]:
    """The numbers of a batch norm of 8 channels, each a constant of shape (1, 8, 1, 1) or (8,)."""
    return [net.const(array if flat else array.reshape(1, 8, 1, 1)) for array in net.numbers(8)]


def textbook(net: Net, y: str) -> str:
    scale, shift, mean, variance = numbers(net)
    root = net.op("Sqrt", net.op("Add", variance, net.const(EPS)))
    normal = net.op("Div", net.op("Sub", y, mean), root)
    return str(net.op("Add", net.op("Mul", scale, normal), shift))


def reciprocal_root(net: Net, y: str) -> str:
    scale, shift, mean, variance = numbers(net)
    root = net.op("Reciprocal", net.op("Sqrt", net.op("Add", variance, net.const(EPS))))
    return str(net.op("Add", net.op("Mul", net.op("Sub", y, mean), net.op("Mul", root, scale)), shift))


def power(net: Net, y: str) -> str:
    scale, shift, mean, variance = numbers(net)
    root = net.op("Pow", net.op("Add", variance, net.const(EPS)), net.const(-0.5))
    return str(net.op("Add", shift, net.op("Mul", net.op("Mul", net.op("Sub", y, mean), root), scale)))


def one_scale_and_shift(net: Net, y: str) -> str:
    scale, shift, _, _ = numbers(net)
    return str(net.op("Add", net.op("Mul", y, scale), shift))


def reversed_signs(net: Net, y: str) -> str:
    scale, shift, mean, _ = numbers(net)
    return str(net.op("Sub", shift, net.op("Mul", net.op("Sub", mean, y), net.op("Neg", scale))))


def prepared(net: Net, y: str) -> str:
    """Statistics in another type and shape, as a framework may keep them."""
    scale, shift, mean, variance = numbers(net, flat=True)
    axes = net.const(np.array([0, 2, 3]))
    mean = net.op("Cast", net.op("Cast", mean, to=1), to=11)
    shaped = [net.op("Unsqueeze", v, axes) for v in (scale, shift, mean)]
    column = net.op("Reshape", variance, net.const(np.array([1, -1, 1, 1])))
    wide = net.op("Expand", net.op("Sqrt", column), net.const(np.array([1, 8, 1, 1])))
    normal = net.op("Div", net.op("Sub", y, shaped[2]), net.op("Identity", wide))
    return str(net.op("Add", net.op("Mul", normal, shaped[0]), shaped[1]))


STYLES: dict[str, Callable[[Net, str], str]] = {
    style.__name__: style
    for style in (textbook, reciprocal_root, power, one_scale_and_shift, reversed_signs, prepared)
}


@pytest.mark.parametrize("style", STYLES)
def test_it_goes_into_a_convolution_without_a_trace(style: str) -> None:
    net = Net(IMAGE)
    report = assert_folds(net, STYLES[style](net, net.conv("x", 4, 8, 3)), left={"Conv": 1})
    assert [entry.flavour for entry in report.folded] == ["elementwise"]


def test_linear_layers_too() -> None:
    net = Net(("N", 4))
    y = net.op("Gemm", "x", net.normal(4, 8), net.normal(8))
    scale, shift, mean, variance = numbers(net, flat=True)
    y = net.op("Div", net.op("Sub", y, mean), net.op("Sqrt", variance))
    assert_folds(net, net.op("Add", net.op("Mul", y, scale), shift), left={"Gemm": 1})


def test_what_stays_is_one_scale_and_one_shift() -> None:
    net = Net(("N", 8, 6, 6))
    y = net.bn(textbook(net, net.op("Tanh", "x")), 8)
    after, report = assert_faithful(net, net.op("Tanh", y))
    assert census(after) == {"Tanh": 2, "Mul": 1, "Add": 1}
    assert len(report.folded) + len(report.kept) == 1
    assert [node.output[0] for node in after.graph.node if node.op_type == "Add"] == [y]


def test_a_single_operator_that_stays_is_left_alone() -> None:
    net = Net(("N", 8, 6, 6))
    before = net.model(net.op("Tanh", net.bn(net.op("Tanh", "x"), 8)))
    after, _ = assert_faithful(net, "tanh2")
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in before.graph.node]


def layer_norm(net: Net) -> str:
    y = net.op("Transpose", net.conv("x", 4, 8), perm=[0, 2, 3, 1])
    centred = net.op("Sub", y, net.op("ReduceMean", y, net.const(np.array([-1]))))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.const(np.array([-1])))
    y = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(EPS))))
    y = net.op("Add", net.op("Mul", y, net.normal(8)), net.normal(8))
    return str(net.op("MatMul", y, net.normal(8, 3)))


def instance_norm(net: Net) -> str:
    y = net.op("InstanceNormalization", net.conv("x", 4, 8), net.const(np.ones(8)), net.const(np.zeros(8)))
    y = net.op("Reshape", y, net.const(np.array([0, 8, 6, 6])))
    y = net.op("Add", net.op("Mul", y, net.normal(8, 1, 1)), net.normal(8, 1, 1))
    return net.conv(y, 8, 3)


def gate(net: Net) -> str:
    y = net.conv("x", 4, 8)
    weights = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", y), 8, 8))
    return net.conv(net.op("Mul", y, weights), 8, 3)


def clamp(net: Net) -> str:
    return net.conv(net.op("Clip", net.conv("x", 4, 8), net.const(-1.0), net.const(1.0)), 8, 3)


def pixel_norm(net: Net) -> str:
    y = net.conv("x", 4, 8)
    mean = net.op("ReduceMean", net.op("Mul", y, y), net.const(np.array([1])))
    y = net.op("Div", y, net.op("Sqrt", net.op("Add", mean, net.const(EPS))))
    return net.conv(net.op("Mul", y, net.normal(8, 1, 1)), 8, 3)


def group_norm(net: Net, *, weight: float | None = None, bias: float | None = None) -> str:
    """As the older of torch's exporters writes it; at its first weights it scales by one and adds zero."""
    y = net.op("Reshape", net.conv("x", 4, 8), net.const(np.array([0, 2, -1])))
    y = net.op("InstanceNormalization", y, net.const(np.ones(2)), net.const(np.zeros(2)))
    y = net.op("Reshape", y, net.const(np.array([0, 8, 6, 6])))
    scale, shift = (
        net.normal(8, 1, 1) if number is None else net.const(np.full((8, 1, 1), number))
        for number in (weight, bias)
    )
    return net.conv(net.op("Add", net.op("Mul", y, scale), shift), 8, 3)


def new_group_norm(net: Net) -> str:
    return group_norm(net, weight=1.0, bias=0.0)


def half_trained_group_norm(net: Net) -> str:
    return group_norm(net, weight=1.0)


def mean_norm(net: Net) -> str:
    """It only subtracts a mean, and then scales and shifts."""
    y = net.conv("x", 4, 8)
    y = net.op("Sub", y, net.op("ReduceMean", y, net.const(np.array([2, 3]))))
    return net.conv(net.op("Add", net.op("Mul", y, net.normal(8, 1, 1)), net.normal(8, 1, 1)), 8, 3)


def scaled_root(net: Net) -> str:
    """An instance norm of which the weight goes onto the reciprocal of the root first."""
    y = net.conv("x", 4, 8)
    centred = net.op("Sub", y, net.op("ReduceMean", y, net.const(np.array([2, 3]))))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), net.const(np.array([2, 3])))
    root = net.op("Reciprocal", net.op("Sqrt", net.op("Add", variance, net.const(EPS))))
    y = net.op("Mul", centred, net.op("Mul", root, net.normal(8, 1, 1)))
    return net.conv(net.op("Add", y, net.normal(8, 1, 1)), 8, 3)


LOOK_ALIKES = [
    *(layer_norm, instance_norm, group_norm, new_group_norm, half_trained_group_norm, mean_norm, scaled_root),
]


def bias(net: Net) -> str:
    return str(net.op("Add", net.op("Mul", net.conv("x", 4, 8), net.const(2.0)), net.normal(8, 1, 1)))


def enlarging(net: Net) -> str:
    return str(net.op("Mul", net.conv("x", 4, 1), net.normal(1, 8, 1, 1)))


@pytest.mark.parametrize("look", [*LOOK_ALIKES, gate, clamp, pixel_norm, bias, enlarging])
def test_look_alikes_are_not_touched(look: Callable[[Net], str]) -> None:
    net = Net(IMAGE)
    y = look(net)
    before = net.model(y)
    after, report = assert_faithful(net, y)
    assert not report.folded
    assert not report.kept
    assert untouched(before, after)


def test_a_scale_goes_past_a_difference_from_the_mean() -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    mean = net.op("ReduceMean", y, net.const(np.array([0, 2, 3])))
    report = assert_folds(net, net.op("Tanh", net.scale(net.op("Sub", y, mean), 8)))
    assert report.folded[0].rule == "conv-bn through Sub, ReduceMean"


def test_a_division_by_zero_is_no_map() -> None:
    net = Net(IMAGE)
    y = net.op("Div", net.conv("x", 4, 8), net.const(np.r_[0.0, np.ones(7)].reshape(8, 1, 1)))
    before = net.model(net.op("Tanh", y))
    assert untouched(before, folded(before)[0])


def test_a_mean_of_many_deviations_is_still_subtracted_first() -> None:
    """s x + t would round to the size of t, which is a hundred times that of the result."""
    net = Net(("N", 8, 6, 6))
    full = np.ones((1, 8, 1, 1))
    y = net.op("Sub", net.op("Tanh", "x"), net.const(3 * full))
    y = net.op("Mul", net.op("Mul", y, net.const(20 * full)), net.const(2 * full))
    after, report = assert_faithful(net, net.op("Tanh", y))
    assert census(after) == {"Tanh": 2, "Sub": 1, "Mul": 1}
    assert len(report.kept) == 1
