"""`merge_branches`: linear branches of one value that meet in a sum become one operator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.graph import branches
from bn_deploy.folding.graph.kernels import Kernel
from tests.fold_onnx.graphs import Net, assert_faithful, assert_folds, assert_keeps, census, folded, run

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


REFUSED: dict[str, tuple[tuple[int, ...], Build, str]] = {
    "between the taps": (
        (2, 4, 6, 6),
        lambda n, x: plus(n, n.conv(x, 4, 4, 2, dilations=[2, 2], pads=[1] * 4), n.bn(x, 4)),
        "n_conv1: along axis 2 the other does not see all that it sees",
    ),
    "sizes": (
        (2, 4, 1, 1),
        lambda n, x: plus(n, n.conv(x, 4, 4, 3, pads=[2] * 4), n.bn(x, 4)),
        "n_conv1: along axis 2 it has another number of outputs",
    ),
    "strides": (
        (2, 4, 1, 1),
        lambda n, x: plus(n, wide(n, x, strides=[2, 2]), n.bn(x, 4)),
        "n_conv1: it has strides (1, 1), the other (2, 2)",
    ),
    "channels": (
        (2, 4, 6, 6),
        lambda n, x: plus(n, wide(n, x, 1), n.bn(x, 4)),
        "n_conv1: it takes 4 channels to 4, the other 4 to 1",
    ),
    "padding by size": (
        (2, 4, 6, 6),
        lambda n, x: plus(n, n.conv(x, 4, 4, 3, auto_pad="SAME_UPPER"), n.bn(x, 4)),
        "how n_conv1 pads depends on the size of its input (SAME_UPPER)",
    ),
    "a transposed input": (
        (4, 4),
        lambda n, x: plus(n, n.op("Gemm", x, n.normal(4, 4), transA=1), n.bn(x, 4)),
        "n_gemm1 transposes its input",
    ),
    "a bias for each row": (
        (2, 4),
        lambda n, x: plus(n, n.op("Gemm", x, n.normal(4, 4), n.normal(2, 4)), n.bn(x, 4)),
        "the bias of n_gemm1 is not one number per channel",
    ),
    "a sum of several sizes": (
        (2, 4, 6, 6),
        lambda n, x: plus(n, wide(n, x), n.op("GlobalMaxPool", x), n.bn(x, 4)),
        "adds up values of different or unknown sizes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_kept_with_the_reason(case: str) -> None:
    shape, build, reason = REFUSED[case]
    net = Net(shape)
    assert_keeps(net, build(net, net.op("Tanh", "x")), because=reason, merge_branches=True)


def test_an_overflow_is_refused() -> None:
    net = Net(IMAGE, dtype=np.float16)
    x = net.op("Tanh", "x")
    kernels = [net.const(np.full((4, 4, 1, 1), 4e4)) for _ in range(2)]
    y = plus(net, *(str(net.op("Conv", x, kernel)) for kernel in kernels), net.bn(x, 4))
    after, report = folded(net.model(y), merge_branches=True)
    assert census(after) == census(net.model(y))
    assert "the folded weights overflow float16" in report.kept[0].reason


STAYS: dict[str, Build] = {
    "more groups": lambda n, x: plus(n, wide(n, x, group=4), n.conv(x, 4, 4)),
    "no convolution": lambda n, x: plus(n, n.op("Neg", x), n.op("Mul", x, n.normal(4, 1, 1))),
    "beyond the taps": lambda n, x: plus(n, wide(n, x), wide(n, x, pads=[2, 1, 0, 1])),
    "another source": lambda n, x: plus(n, wide(n, x), n.conv(n.op("Sigmoid", "x"), 4, 4)),
    "read elsewhere": lambda n, x: plus(n, y := wide(n, x), n.op("Exp", y), n.op("Sigmoid", x)),
    "no sum": lambda n, x: n.op("Mul", wide(n, x), n.conv(x, 4, 4)),
    "weights vary": lambda n, x: plus(n, n.op("Conv", x, "x1"), n.op("Conv", x, "x1")),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_is_no_branch_stays(case: str) -> None:
    net = Net(IMAGE, (4, 4, 1, 1))
    y = STAYS[case](net, net.op("Tanh", "x"))
    after, _ = assert_faithful(net, y, merge_branches=True)
    assert census(after) == census(net.model(y))


def shifted(self: Kernel, other: Kernel) -> tuple[slice, ...]:
    """Puts the kernel one tap off where there is room."""
    slices = list(right_taps(self, other))
    last = slices[-1]
    if other.weight.shape[-1] > last.stop:
        slices[-1] = slice(last.start + 1, last.stop + 1, last.step)
    return tuple(slices)


def dense(affine: Affine, axes: int) -> Kernel:
    """A per-channel map that reads the channels in the wrong order."""
    right = right_pointwise(affine, axes)
    return dataclasses.replace(right, weight=right.weight[::-1])


def unbiased(affine: Affine, axes: int) -> Kernel:
    right = right_pointwise(affine, axes)
    return dataclasses.replace(right, bias=0 * right.bias)


right_taps, right_pointwise, right_within = Kernel._taps, Kernel.pointwise, Kernel.within

MUTANTS: list[tuple[object, str, Any]] = [
    (Kernel, "_taps", shifted),
    (Kernel, "pointwise", dense),
    (Kernel, "pointwise", unbiased),
    (Kernel, "within", lambda self, other: 1.01 * right_within(self, other)),
    (Kernel, "within", lambda self, other: 0 * right_within(self, other)),
    (branches, "absorb_after", lambda weight, bias, affine: (weight, bias)),
]


@pytest.mark.parametrize(("home", "name", "mutant"), MUTANTS, ids=range(len(MUTANTS)))
def test_a_wrong_sum_is_caught(home: object, name: str, mutant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    x = net.op("Tanh", "x")
    y = plus(net, wide(net, x), net.op("Neg", net.conv(x, 4, 4)), net.bn(x, 4))
    assert_folds(net, y, left={"Tanh": 1, "Conv": 1}, merge_branches=True)
    monkeypatch.setattr(home, name, mutant)
    with pytest.raises(AssertionError, match="off by"):
        assert_folds(net, y, merge_branches=True)
