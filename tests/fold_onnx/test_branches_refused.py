"""`merge_branches`: what is no branch, or does not fit into another; and wrong sums, which are caught."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.graph import branches
from bn_deploy.folding.graph.kernels import Kernel
from tests.fold_onnx.graphs import Net, assert_faithful, assert_folds, assert_keeps, census, folded
from tests.fold_onnx.test_branches import plus, wide

IMAGE = ("N", 4, 6, 6)
Build = Callable[[Net, str], str]


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
