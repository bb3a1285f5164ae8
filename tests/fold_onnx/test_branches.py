"""`merge_branches`: linear branches of one value that meet in a sum become one operator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from tests.fold_onnx.graphs import Net, assert_folds, assert_keeps, census, folded, run

IMAGE = ("N", 4, 6, 6)
Build = Callable[[Net, str], str]


def plus(net: Net, first: str, *others: str) -> str:
    """The sum of all, from the left."""
    for other in others:
        first = str(net.op("Add", first, other))
    return first


def wide(net: Net, x: str, out: int = 4, **attributes: Any) -> str:
    """A convolution that keeps the size of an image."""
    return net.conv(x, 4, out, 3, **{"pads": [1] * 4, **attributes})


MERGED: dict[str, tuple[tuple[int | str, ...], Build]] = {
    "a block of RepVGG": (IMAGE, lambda n, x: plus(n, wide(n, x), n.conv(x, 4, 4), n.bn(x, 4))),
    "the batch norm first": (IMAGE, lambda n, x: plus(n, n.bn(x, 4), n.conv(x, 4, 4), wide(n, x))),
    "two sums": (
        IMAGE,
        lambda n, x: plus(n, plus(n, n.bn(x, 4), wide(n, x)), plus(n, n.conv(x, 4, 4), x)),
    ),
    "batch norms on all": (
        IMAGE,
        lambda n, x: plus(n, n.bn(wide(n, x, bias=False), 4), n.bn(n.conv(x, 4, 4), 4), n.bn(x, 4)),
    ),
    "strides": (
        IMAGE,
        lambda n, x: plus(n, wide(n, x, 8, strides=[2, 2]), n.bn(n.conv(x, 4, 8, strides=[2, 2]), 8)),
    ),
    "unequal strides and pads": (
        IMAGE,
        lambda n, x: plus(
            n,
            n.bn(n.conv(x, 4, 8, 3, strides=[2, 1], pads=[2, 1, 0, 1]), 8),
            n.conv(x, 4, 8, strides=[2, 1]),
        ),
    ),
    "dilations": (IMAGE, lambda n, x: plus(n, wide(n, x, dilations=[2, 2], pads=[2] * 4), n.bn(x, 4))),
    "a dilated one inside": (
        IMAGE,
        lambda n, x: plus(
            n,
            n.conv(x, 4, 4, 5, pads=[2] * 4),
            wide(n, x, dilations=[2, 2], pads=[2] * 4),
            wide(n, x),
            n.bn(x, 4),
        ),
    ),
    "off centre": (
        IMAGE,
        lambda n, x: plus(n, n.conv(x, 4, 4, 2, pads=[0, 0, 1, 1]), n.conv(x, 4, 4), n.bn(x, 4)),
    ),
    "at the rim": (IMAGE, lambda n, x: plus(n, wide(n, x, pads=[0, 2, 2, 0]), n.bn(x, 4))),
    "without padding": (
        IMAGE,
        lambda n, x: n.bn(plus(n, n.conv(x, 4, 4, 3), n.conv(x, 4, 4, 5, pads=[1] * 4)), 4),
    ),
    "lying and standing": (
        IMAGE,
        lambda n, x: plus(
            n,
            wide(n, x),
            n.op("Conv", x, n.normal(4, 4, 1, 3), pads=[0, 1, 0, 1]),
            n.op("Conv", x, n.normal(4, 4, 3, 1), pads=[1, 0, 1, 0], auto_pad="NOTSET"),
            n.bn(x, 4),
        ),
    ),
    "groups": (
        IMAGE,
        lambda n, x: plus(n, wide(n, x, group=2), n.conv(x, 4, 4, group=4), n.bn(x, 4)),
    ),
    "groups into none": (
        IMAGE,
        lambda n, x: plus(n, wide(n, x, 8, group=2), n.bn(wide(n, x, 8, group=4), 8), wide(n, x, 8)),
    ),
    "depthwise": (IMAGE, lambda n, x: plus(n, wide(n, x, group=4), n.bn(x, 4))),
    "x itself": (IMAGE, lambda n, x: n.bn(plus(n, x, wide(n, x)), 4)),
    "x twice": (IMAGE, lambda n, x: plus(n, x, wide(n, x), x, n.bn(x, 4))),
    "scaled": (
        IMAGE,
        lambda n, x: plus(n, n.op("Mul", wide(n, x), n.const(0.1)), n.bn(x, 4), n.op("Neg", x)),
    ),
    "unknown sizes": (
        ("N", 4, "H", "W"),
        lambda n, x: plus(n, wide(n, x), n.conv(x, 4, 4), n.bn(x, 4)),
    ),
    "1-d": (
        ("N", 4, 6),
        lambda n, x: plus(n, n.conv(x, 4, 4, 3, rank=3, pads=[1, 1]), n.conv(x, 4, 4, rank=3), n.bn(x, 4)),
    ),
    "3-d": (
        ("N", 4, 3, 3, 3),
        lambda n, x: plus(n, n.conv(x, 4, 4, 3, rank=5, pads=[1] * 6), n.bn(x, 4)),
    ),
    "linear": (
        ("N", 4),
        lambda n, x: plus(
            n,
            n.op("Gemm", x, n.normal(4, 4), n.normal(4), alpha=0.5, beta=2.0),
            n.op("Gemm", x, n.normal(4, 4), n.normal(1, 4), transB=1),
            n.bn(x, 4),
        ),
    ),
    "linear, stored by rows": (
        ("N", 4),
        lambda n, x: plus(
            n,
            n.bn(n.op("Gemm", x, n.normal(3, 4), transB=1, alpha=2.0), 3),
            n.op("Gemm", x, n.normal(4, 3)),
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_one_operator_is_left(case: str) -> None:
    shape, build = MERGED[case]
    net = Net(shape)
    y = build(net, net.op("Tanh", "x"))
    operator = "Gemm" if len(shape) == 2 else "Conv"
    assert_folds(net, y, left={"Tanh": 1, operator: 1}, merge_branches=True)


@pytest.mark.parametrize("case", [case for case in MERGED if "x " not in case])
def test_it_is_off_unless_asked_for(case: str) -> None:
    shape, build = MERGED[case]
    net = Net(shape)
    before = net.model(build(net, net.op("Tanh", "x")))
    after, _ = folded(before)
    assert census(after).get("Add", 0) == census(before)["Add"]


def test_the_report_says_what_took_the_batch_norm() -> None:
    net = Net(IMAGE)
    x = net.op("Tanh", "x")
    y = plus(net, wide(net, x), net.conv(x, 4, 4), net.bn(x, 4))
    assert_keeps(net, y, because="tanh0 is used 3 times; after it, only one operand")
    (entry,) = assert_folds(net, y, merge_branches=True).folded
    assert (entry.rule, entry.site.producer) == ("branches into one conv", "n_conv1")


@pytest.mark.parametrize("second", ["linear", "x"])
def test_several_sources_in_one_sum(second: str) -> None:
    net = Net(IMAGE)
    x, z = net.op("Tanh", "x"), net.op("Sigmoid", "x")
    other = net.bn(z, 4) if second == "linear" else z
    y = plus(net, wide(net, x), wide(net, z), net.bn(x, 4), other, net.op("Exp", "x"))
    left = {"Tanh": 1, "Sigmoid": 1, "Exp": 1, "Conv": 2, "Add": 2}
    assert_folds(net, y, left=left, merge_branches=True)


def test_a_merged_convolution_may_be_an_output() -> None:
    net = Net(IMAGE)
    y = plus(net, net.bn("x", 4), wide(net, "x"))
    assert_folds(net, y, left={"Conv": 1}, merge_branches=True)


def test_with_an_exact_border_even_a_shared_batch_norm_goes() -> None:
    net = Net(IMAGE)
    numbers = [2.0, -1, 3, 1], [1.0] * 4, [0.0] * 4, [1.0] * 4
    y = net.op("BatchNormalization", net.op("Tanh", "x"), *map(net.const, numbers))
    z = plus(net, wide(net, y), net.conv(y, 4, 4), net.bn(y, 4))
    left = {"Tanh": 1, "Add": 1, "Conv": 1}
    assert_folds(net, z, left=left, merge_branches=True, pad_exact=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_type_is_kept(dtype: Any) -> None:
    net = Net(IMAGE, dtype=dtype)
    y = plus(net, wide(net, "x"), net.conv("x", 4, 4), net.bn("x", 4, positive=True))
    before = net.model(y)
    after, report = folded(before, merge_branches=True)
    assert not report.kept
    kinds = {onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in after.graph.initializer}
    assert kinds == {np.dtype(dtype)}
    one, other = run(before, net.feeds())[0], run(after, net.feeds())[0]
    assert np.abs(one - other).max() < 16 * np.finfo(dtype).eps * np.abs(one).max()
