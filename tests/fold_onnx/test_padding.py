"""`pad_exact`: a batch norm before padded zeros goes, and what is computed at the border stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

from bn_deploy.folding.graph import linear, padding
from bn_deploy.folding.graph.field import Field
from tests.fold_onnx.graphs import (
    Array,
    Net,
    assert_faithful,
    assert_folds,
    assert_keeps,
    census,
    folded,
    run,
)

IMAGE = ("N", 4, 9, 9)
RING = 2
"""How many positions on either side of an axis the pads below reach, at most."""

Build = Callable[[Net, str], str]


def bn(net: Net, x: str, channels: int = 4, *, scale: Any = None, shift: Any = None) -> str:
    """A batch norm with scales of both signs, none of them zero."""
    random = net.random
    given = random.choice([-1, 1], channels) * random.uniform(0.3, 3, channels) if scale is None else scale
    shifts = random.standard_normal(channels) if shift is None else shift
    parts = given, shifts, np.zeros(channels), np.full(channels, 1 - 1e-5)
    return str(net.op("BatchNormalization", x, *map(net.const, parts)))


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


CONVS: dict[str, tuple[tuple[int | str, ...], Build]] = {
    "all around": (IMAGE, lambda n, y: n.conv(y, 4, 3, 3, pads=[1] * 4)),
    "without bias": (IMAGE, lambda n, y: n.conv(y, 4, 3, 3, pads=[1] * 4, bias=False)),
    "asymmetric": (IMAGE, lambda n, y: n.conv(y, 4, 3, 3, pads=[0, 2, 1, 0])),
    "strides": (IMAGE, lambda n, y: n.conv(y, 4, 3, 3, pads=[1, 0, 2, 1], strides=[2, 3])),
    "dilations": (IMAGE, lambda n, y: n.conv(y, 4, 3, 3, pads=[2, 1, 2, 1], dilations=[2, 1])),
    "groups": (IMAGE, lambda n, y: n.conv(y, 4, 6, 3, pads=[1] * 4, group=2)),
    "depthwise": (IMAGE, lambda n, y: n.conv(y, 4, 4, 3, pads=[1] * 4, group=4)),
    "larger than its input": (("N", 4, 2, 2), lambda n, y: n.conv(y, 4, 3, 5, pads=[2] * 4)),
    "same size, upper": (IMAGE, lambda n, y: n.conv(y, 4, 3, 2, auto_pad="SAME_UPPER")),
    "same size, lower": (IMAGE, lambda n, y: n.conv(y, 4, 3, 2, auto_pad="SAME_LOWER")),
    "unknown size": (("N", 4, "H", "W"), lambda n, y: n.conv(y, 4, 3, 2, pads=[1] * 4)),
    "1-d": (("N", 4, 9), lambda n, y: n.conv(y, 4, 3, 3, rank=3, pads=[2, 1])),
    "3-d": (("N", 4, 5, 5, 5), lambda n, y: n.conv(y, 4, 2, 3, rank=5, pads=[1, 0, 1, 1, 2, 0])),
}


def regions(array: Array) -> dict[str, Array]:
    """The values at the border, and the others."""
    inside = np.zeros(array.shape, bool)
    where = [slice(None)] * 2 + [slice(RING, -RING)] * (array.ndim - 2)
    inside[tuple(where)] = True
    return {"interior": array[inside], "border": array[~inside]}


def gaps(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, float]:
    """How far apart the outputs of two models are, by region, in parts of the largest output."""
    one, other = run(before, feeds)[0], run(after, feeds)[0]
    gap = np.abs(one - other) / np.abs(one).max()
    return {name: float(part.max(initial=0)) for name, part in regions(gap).items()}


@pytest.mark.parametrize("case", CONVS)
def test_the_border_and_the_interior_are_exact(case: str) -> None:
    shape, build = CONVS[case]
    net = Net(shape)
    y = build(net, bn(net, "x"))
    after, report = assert_faithful(net, y, pad_exact=True)
    assert not report.kept
    assert report.folded[0].rule.startswith("bn-conv, border exact with an Add into n_conv")
    assert census(after) == {"Add": 1, "Conv": 1}
    for region, gap in gaps(net.model(y), after, net.feeds()).items():
        assert gap < 1e-13, region


@pytest.mark.parametrize("case", CONVS)
def test_it_is_off_unless_asked_for(case: str) -> None:
    shape, build = CONVS[case]
    net = Net(shape)
    assert_keeps(net, build(net, bn(net, "x")), because="pads its input with zeros")


OTHERS: dict[str, tuple[Build, dict[str, int]]] = {
    "several readers": (
        lambda n, y: n.op("Concat", n.conv(y, 4, 3, 3, pads=[1] * 4), n.conv(y, 4, 2), axis=1),
        {"Add": 1, "Conv": 2, "Concat": 1},
    ),
    "through a concat": (
        lambda n, y: n.conv(n.op("Concat", n.op("Tanh", "x"), y, axis=1), 8, 3, 3, pads=[1] * 4),
        {"Tanh": 1, "Add": 1, "Concat": 1, "Conv": 1},
    ),
    "through pooling": (
        lambda n, y: n.conv(n.op("AveragePool", y, kernel_shape=[2, 2]), 4, 3, 3, pads=[1] * 4),
        {"Add": 1, "AveragePool": 1, "Conv": 1},
    ),
    "padded apart": (
        lambda n, y: n.conv(n.op("Pad", y, index(n, 0, 0, 1, 1, 0, 0, 1, 1)), 4, 3, 3),
        {"Add": 1, "Pad": 1, "Conv": 1},
    ),
    "counted zeros": (
        lambda n, y: n.conv(
            n.op("AveragePool", y, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1), 4, 3
        ),
        {"Add": 1, "AveragePool": 1, "Conv": 1},
    ),
    "transposed": (
        lambda n, y: n.op("ConvTranspose", y, n.normal(4, 3, 3, 3), strides=[2, 2]),
        {"Add": 1, "ConvTranspose": 1},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_whatever_counts_zeros(case: str) -> None:
    build, left = OTHERS[case]
    net = Net(IMAGE)
    y = net.op("Tanh", build(net, bn(net, "x")))
    report = assert_folds(net, y, left={**left, "Tanh": left.get("Tanh", 0) + 1}, pad_exact=True)
    assert ", border exact with an Add" in report.folded[0].rule


def test_the_shift_goes_into_what_feeds_it_if_that_can_take_it() -> None:
    net = Net(IMAGE)
    y = net.op("Add", net.conv("x", 4, 4), net.op("Tanh", "x"))
    z = net.conv(bn(net, y), 4, 3, 3, pads=[1] * 4)
    report = assert_folds(net, z, left={"Conv": 2, "Tanh": 1, "Add": 1}, pad_exact=True)
    (entry,) = report.folded
    assert entry.rule == "bn-conv, border exact, its shift by conv-bn through Add into n_conv4, n_conv0"


def test_it_is_not_asked_where_the_whole_map_folds() -> None:
    net = Net(IMAGE)
    report = assert_folds(net, net.conv(bn(net, "x"), 4, 3, 3), left={"Conv": 1}, pad_exact=True)
    assert report.folded[0].rule == "bn-conv into n_conv1"


def test_a_channel_of_scale_and_shift_zero_is_no_obstacle() -> None:
    net = Net(IMAGE)
    y = bn(net, "x", scale=[2.0, 0, -1, 3], shift=[1.0, 0, 2, -1])
    assert_folds(net, net.conv(y, 4, 3, 3, pads=[1] * 4), left={"Add": 1, "Conv": 1}, pad_exact=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_type_is_kept(dtype: Any) -> None:
    net = Net(IMAGE, dtype=dtype)
    y = net.conv(bn(net, "x"), 4, 3, 3, pads=[1] * 4)
    before = net.model(y)
    after, report = folded(before, pad_exact=True)
    assert not report.kept
    kinds = {onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type) for tensor in after.graph.initializer}
    assert kinds == {np.dtype(dtype)}
    for region, gap in gaps(before, after, net.feeds()).items():
        assert gap < 16 * np.finfo(dtype).eps, region


ALIVE = [1.0, 2, 3, 4]

KEPT: dict[str, tuple[Any, Callable[[Net], str], str]] = {
    "a shift without a scale": (
        np.float64,
        lambda n: n.conv(bn(n, "x", scale=[2.0, 0, 1, 1], shift=ALIVE), 4, 3, 3, pads=[1] * 4),
        "a channel that has a shift, but scale 0",
    ),
    "a shift of tiny scale": (
        np.float32,
        lambda n: n.conv(bn(n, "x", scale=[2.0, 1e-20, 1, 1], shift=ALIVE), 4, 3, 3, pads=[1] * 4),
        "a shift cannot be divided by scale 1e-20 in float",
    ),
    "too large a quotient": (
        np.float16,
        lambda n: n.conv(bn(n, "x", scale=[2.0, 1e-2, 1, 1], shift=[0, 2e3, 0, 0]), 4, 3, 3, pads=[1] * 4),
        "the folded shifts overflow float16",
    ),
    "only a shift": (
        np.float64,
        lambda n: n.conv(
            n.op(
                "BatchNormalization",
                "x",
                n.const(np.ones(4)),
                n.const(ALIVE),
                n.const(np.zeros(4)),
                n.const(np.ones(4)),
                epsilon=0.0,
            ),
            *(4, 3, 3),
            pads=[1] * 4,
        ),
        "its scale alone does not go further",
    ),
    "a rectifier": (
        np.float64,
        lambda n: n.conv(n.op("Relu", bn(n, "x", scale=ALIVE)), 4, 3, 3, pads=[1] * 4),
        "a shift does not pass a Relu, padded or not",
    ),
    "one reader cannot": (
        np.float64,
        lambda n: n.op(
            "Add", n.op("Tanh", y := bn(n, "x")), n.conv(y, 4, 4, 3, pads=[1] * 4)
        ),
        "a Tanh, neither absorbs",
    ),
    "weights vary": (
        np.float64,
        lambda n: n.op("Conv", bn(n, "x"), "x1", pads=[1] * 4),
        "the weights of n_conv1 are not constant",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_kept_with_the_reason(case: str) -> None:
    dtype, build, reason = KEPT[case]
    net = Net(IMAGE, (3, 4, 3, 3), dtype=dtype)
    y = build(net)
    if dtype is np.float64:
        assert_keeps(net, y, because=reason, pad_exact=True)
    after, report = folded(net.model(y), pad_exact=True)
    assert census(after) == census(net.model(y))
    assert [reason in entry.reason for entry in report.kept] == [True]


def _measured(**options: bool) -> dict[str, float]:
    net = Net(IMAGE)
    y = net.conv(bn(net, "x"), 4, 3, 3, pads=[1] * 4)
    after, report = folded(net.model(y), **options)
    assert not report.kept
    return gaps(net.model(y), after, net.feeds())


def test_a_shift_over_the_whole_kernel_is_caught_at_the_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_padded", lambda node, shape: False)
    wrong = _measured()
    assert wrong["interior"] < 1e-13
    assert wrong["border"] > 1e-2


SPLITS: dict[str, Callable[[Field, Field], tuple[Field, Field]]] = {
    "sign": lambda shift, scale: (Field(shift.scale, -shift.shift), scale),
    "shift lost": lambda shift, scale: (shift.scaling, scale),
    "not divided": lambda shift, scale: (Field(shift.scale, shift.shift * scale.scale), scale),
    "scale off by a percent": lambda shift, scale: (shift, Field(1.01 * scale.scale, scale.shift)),
    "order": lambda shift, scale: (scale.then(shift), scale),
}


@pytest.mark.parametrize("mutant", SPLITS)
def test_a_wrong_split_is_caught(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = padding._apart
    assert max(_measured(pad_exact=True).values()) < 1e-13
    monkeypatch.setattr(padding, "_apart", lambda chain: SPLITS[mutant](*right(chain)))
    assert min(_measured(pad_exact=True).values()) > 1e-3
