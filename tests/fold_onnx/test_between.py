"""What lies between a convolution and a batch norm and asks for more: each case folds completely."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.fold_onnx.graphs import Array, Net, assert_folds, folded

IMAGE = ("N", 4, 6, 6)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def sliced(net: Net, y: str, *numbers: list[int]) -> str:
    return str(net.op("Slice", y, *[net.const(np.array(n)) for n in numbers]))


@pytest.mark.parametrize(
    ("size", "attributes"),
    [
        (6, {"kernel_shape": [2, 2], "dilations": [3, 3], "pads": [1] * 4}),
        (6, {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [1] * 4}),
        (7, {"kernel_shape": [3, 3], "strides": [3, 3], "auto_pad": "SAME_UPPER"}),
    ],
)
def test_windows_that_all_see_the_input(size: int, attributes: dict[str, object]) -> None:
    net = Net(("N", 4, size, size), dtype=np.float32)
    y = net.bn(net.op("MaxPool", net.conv("x", 4, 8), **attributes), 8, positive=True)
    before = net.model(y)
    after, report = folded(before)
    assert report.folded
    one, other = (by_runtime(model, net.feeds()) for model in (before, after))
    assert np.abs(one - other).max() <= 64 * np.finfo(np.float32).eps * np.abs(one).max()


def by_runtime(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    """The only output, by ONNX Runtime: ONNX's reference cannot do all kinds of pooling."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("op_type", ["Relu", "LeakyRelu", "PRelu", "Abs", "Clip", "ReduceL1", "ReduceL2"])
def test_rectifiers_and_norms_let_positive_scales_pass(op_type: str) -> None:
    net = Net(IMAGE)
    more = {"PRelu": lambda: [net.normal(8, 1, 1)], "Clip": lambda: [net.const(0.0), net.const(np.inf)]}
    more |= dict.fromkeys(("ReduceL1", "ReduceL2"), lambda: [index(net, 2, 3)])
    slope = more.get(op_type, list)()
    assert_folds(net, net.scale(net.op(op_type, net.conv("x", 4, 8), *slope), 8))


def test_a_space_to_depth_whose_blocks_agree() -> None:
    net = Net(IMAGE)
    y = net.op("SpaceToDepth", net.conv("x", 4, 2), blocksize=2)
    numbers = [np.tile(array, 4) for array in net.numbers(2)]
    y = net.op("BatchNormalization", y, *map(net.const, numbers))
    assert_folds(net, y, left={"Conv": 1, "SpaceToDepth": 1})


@pytest.mark.parametrize("sizes", [None, (0, -1), (-1, 8 * 36), (0, 144, 2)])
def test_a_flatten_whose_channels_agree(sizes: tuple[int, ...] | None) -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    y = net.op("Flatten", y) if sizes is None else net.op("Reshape", y, index(net, *sizes))
    each = 18 if sizes and len(sizes) == 3 else 36
    numbers = [np.repeat(array, each) for array in net.numbers(8)]
    assert_folds(net, net.op("BatchNormalization", y, *map(net.const, numbers)))


def test_every_part_of_a_convolution_has_its_own_batch_norm() -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    parts = [sliced(net, y, [start], [start + 4], [1]) for start in (0, 4)]
    assert_folds(net, *(net.op("Tanh", net.bn(part, 4)) for part in parts))


def test_readers_that_agree() -> None:
    net = Net(IMAGE)
    y, numbers = net.conv("x", 4, 8), [net.const(array) for array in net.numbers(8)]
    twice = [net.op("Tanh", net.op("BatchNormalization", y, *numbers)) for _ in range(2)]
    report = assert_folds(net, *twice)
    assert len(report.folded) == 2


def test_several_in_a_row_and_one_that_changes_nothing() -> None:
    net = Net(IMAGE)
    y = net.bn(net.op("AveragePool", net.bn(net.bn(net.conv("x", 4, 8), 8), 8), kernel_shape=[2, 2]), 8)
    assert len(assert_folds(net, y, left={"Conv": 1, "AveragePool": 1}).folded) == 3
    net = Net(IMAGE)
    zeros, ones = net.const(np.zeros(4)), net.const(np.ones(4))
    y = net.op("BatchNormalization", net.op("Tanh", "x"), ones, zeros, zeros, ones, epsilon=0.0)
    assert assert_folds(net, y, left={"Tanh": 1}).folded[0].rule == "identity"


def test_weights_that_two_layers_share_stay_apart() -> None:
    net = Net(IMAGE)
    weight = net.normal(4, 4, 1, 1)
    y = net.op("Tanh", net.bn(net.op("Conv", "x", weight), 4))
    assert_folds(net, net.op("Conv", net.op("Tanh", net.bn(net.op("Conv", y, weight), 4)), weight))


@pytest.mark.parametrize("pads", [(0, 0, -1, 0, 0, 0, 0, -1), (0, -1, 0, 1, 0, 2, 0, 0)])
def test_padding_that_takes_away(pads: tuple[int, ...]) -> None:
    """By ONNX Runtime, since ONNX's reference cannot."""
    net = Net(IMAGE, dtype=np.float32)
    y = net.op("Pad", net.conv("x", 4, 8), index(net, *pads))
    channels = 8 + pads[1] + pads[5]
    before = net.model(net.scale(y, channels) if max(pads) > 0 else net.bn(y, channels))
    after, report = folded(before)
    assert report.folded
    one, other = (by_runtime(model, net.feeds()) for model in (before, after))
    assert np.abs(one - other).max() <= 64 * np.finfo(np.float32).eps * np.abs(one).max()


def padded_channels(net: Net, y: str) -> str:
    """A shortcut as of the first residual networks: the channels that it lacks are zeros."""
    short = net.op("Pad", net.conv("x", 4, 4), index(net, 0, 1, 0, 0, 0, 3, 0, 0))
    return str(net.op("Add", short, y))


def test_channels_that_are_padded_with_zeros() -> None:
    net = Net(IMAGE)
    assert_folds(net, net.op("Tanh", net.bn(padded_channels(net, net.conv("x", 4, 8)), 8)))


def test_channels_that_are_padded_with_what_the_map_keeps() -> None:
    net = Net(IMAGE)
    y = net.op("Pad", net.conv("x", 4, 4), index(net, 0, 2, 1, 0, 0, 1, 0, 1), net.const(3.0))
    scale, mean = net.normal(7, 1, 1), net.const(np.full((7, 1, 1), 3.0))
    y = net.op("Add", net.op("Mul", net.op("Sub", y, mean), scale), mean)
    assert_folds(net, net.op("Tanh", y))


def test_a_batch_norm_that_nothing_reads_goes() -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    net.bn(y, 8)
    assert_folds(net, net.bn(y, 8), left={"Conv": 1})


def test_a_value_that_is_added_to_itself() -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    assert_folds(net, net.op("Tanh", net.bn(net.op("Add", y, y), 8)), left={"Conv": 1, "Add": 1, "Tanh": 1})
    net = Net(IMAGE)
    y = net.conv("x", 4, 8)
    assert_folds(net, net.op("Tanh", net.bn(net.op("Sum", y, y, y), 8)))
