"""Sizes and positions that a graph computes, as exporters write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from bn_deploy.folding.graph import evaluate
from tests.fold_onnx.graphs import (
    BATCH,
    Net,
    assert_faithful,
    assert_folds,
    assert_keeps,
    folded,
    judged,
    run,
)

STATIC = (BATCH, 4, 6, 6)
DYNAMIC = ("N", 4, "H", "W")


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def size(net: Net, y: str, axis: int) -> str:
    """The size of an axis, of shape (1,)."""
    return str(net.op("Gather", net.op("Shape", y), index(net, axis)))


def flattened(net: Net) -> str:
    """(N, C, H, W) to (N, C, H W), the last size computed."""
    y = net.conv("x", 4, 8)
    last = net.op("Mul", size(net, y, 2), size(net, y, 3))
    shape = net.op("Concat", size(net, y, 0), size(net, y, 1), last, axis=0)
    return str(net.op("Tanh", net.bn(net.op("Reshape", y, shape), 8)))


def chunk(net: Net) -> str:
    """The first half of the channels, rounded up by a whole division."""
    y = net.conv("x", 4, 7)
    half = net.op("Div", net.op("Add", size(net, y, 1), index(net, 1)), index(net, 2))
    part = net.op("Slice", y, index(net, 0), half, index(net, 1))
    rest = net.op("Slice", y, half, net.op("Mul", half, index(net, 2)), index(net, 1))
    return str(net.op("Concat", net.op("Tanh", net.bn(part, 4)), net.op("Tanh", net.bn(rest, 3)), axis=1))


def padded(net: Net) -> str:
    """Pads from the last axis on, as torch counts them, turned to those of ONNX."""
    nothing = numpy_helper.from_array(np.array([0]))
    zeros = net.op("ConstantOfShape", index(net, 4), value=nothing)
    filled = net.op("Concat", index(net, 1, 0, 0, 2), zeros, axis=0)
    pairs = net.op("Reshape", net.op("Cast", filled, to=7), index(net, -1, 2))
    turned = net.op("Slice", pairs, index(net, -1), index(net, -99), index(net, 0), index(net, -1))
    pads = net.op("Reshape", net.op("Transpose", turned, perm=[1, 0]), index(net, -1))
    return str(net.op("Tanh", net.bn(net.op("Pad", net.conv("x", 4, 8), pads, mode="reflect"), 8)))


def unshuffled(net: Net) -> str:
    """The elements of a block become channels, whose number is computed; each block has one map."""
    y = net.conv("x", 4, 2)
    halves = [net.op("Div", size(net, y, axis), index(net, 2)) for axis in (2, 3)]
    sizes = [size(net, y, 0), size(net, y, 1), halves[0], index(net, 2), halves[1], index(net, 2)]
    y = net.op("Reshape", y, net.op("Concat", *sizes, axis=0))
    y = net.op("Transpose", y, perm=[0, 1, 3, 5, 2, 4])
    channels = net.op("Mul", sizes[1], index(net, 4))
    y = net.op("Reshape", y, net.op("Concat", sizes[0], channels, *halves, axis=0))
    numbers = [np.repeat(array, 4) for array in net.numbers(2)]
    return str(net.op("Tanh", net.op("BatchNormalization", y, *map(net.const, numbers))))


def resized(net: Net) -> str:
    """To a size that is computed from that of what is resized, which so is read twice."""
    y = net.conv("x", 4, 8)
    last = net.op("Mul", net.op("Slice", net.op("Shape", y), index(net, 2), index(net, 4)), index(net, 2))
    sizes = net.op("Concat", net.op("Slice", net.op("Shape", y), index(net, 0), index(net, 2)), last, axis=0)
    y = net.op("Resize", y, "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric")
    return str(net.op("Tanh", net.bn(y, 8)))


def counted(net: Net) -> str:
    """As numpy code is exported: the product of the last sizes, and a range of positions."""
    y = net.conv("x", 4, 8)
    count = net.op("ReduceProd", net.op("Shape", y, start=2), keepdims=1)
    y = net.op("Reshape", y, net.op("Concat", net.op("Shape", y, end=2), count, axis=0))
    places = net.op("Range", net.const(np.array(7)), net.const(np.array(-1)), net.const(np.array(-2)))
    return str(net.op("Tanh", net.bn(net.op("Gather", y, places, axis=1), 4)))


BUILDS: list[Callable[[Net], str]] = [
    *(flattened, chunk, padded, unshuffled, resized, counted),
]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("shape", [STATIC, ("N", 4, 6, 6)])
def test_computed_sizes_are_followed(build: Callable[[Net], str], shape: tuple[Any, ...]) -> None:
    net = Net(shape)
    assert_folds(net, build(net))


@pytest.mark.parametrize("build", [flattened, chunk, resized])
def test_sizes_that_are_not_numbers_are_followed_by_their_names(build: Callable[[Net], str]) -> None:
    net = Net(DYNAMIC)
    assert_folds(net, build(net))


def of_unknown_channels(net: Net) -> str:
    """What is taken depends on how many rows there are."""
    y = net.conv("x", 4, 8)
    part = net.op("Slice", y, index(net, 0), size(net, "x", 0), index(net, 1))
    return str(net.op("Tanh", net.bn(part, BATCH)))


def of_unknown_rows(net: Net) -> str:
    """Channels that come from rows, of which nobody knows the number."""
    y = net.conv("x", 4, 8)
    shape = net.op("Concat", index(net, 8), size(net, y, 0), index(net, 6, 6), axis=0)
    return str(net.op("Tanh", net.bn(net.op("Reshape", y, shape), BATCH)))


REFUSED: dict[Callable[[Net], str], str] = {
    of_unknown_channels: "what n_slice2 takes is not known",
    of_unknown_rows: "depends on unknown sizes",
}


@pytest.mark.parametrize("build", REFUSED)
def test_sizes_that_depend_on_the_batch_are_not_guessed(build: Callable[[Net], str]) -> None:
    net = Net(("N", 4, 6, 6))
    y = build(net)
    reason = REFUSED[build]
    model = net.model(y)
    assert run(model, net.feeds())[0].shape
    assert_keeps(net, y, because="is not known" if "takes" in reason else reason)


def test_a_reader_of_the_numbers_is_a_reader() -> None:
    """It differs in one thing from what reads only the size."""
    net = Net(STATIC)
    y = net.conv("x", 4, 8)
    zero = net.op("Mul", net.op("Cast", net.op("ReduceMin", y, keepdims=0), to=7), net.const(np.array(0)))
    y = net.op("Gather", y, zero, axis=3)
    z = net.op("Unsqueeze", y, index(net, 3))
    assert_keeps(net, net.op("Tanh", net.bn(z, 8)), because="is used 2 times")
    net = Net(STATIC)
    y = net.conv("x", 4, 8)
    zero = net.op("Mul", net.op("Size", y), net.const(np.array(0)))
    z = net.op("Unsqueeze", net.op("Gather", y, zero, axis=3), index(net, 3))
    assert_folds(net, net.op("Tanh", net.bn(z, 8)))


def test_a_batch_norm_says_how_many_channels_its_input_has() -> None:
    """Else what is written in its place, for two in a row, would not be recognised any more."""
    net = Net(("N", 3, 6, 6))
    split = net.op("SplitToSequence", net.bn("x", 3), net.const(np.array(2)), axis=1)
    y = net.op("SequenceAt", split, net.const(np.array(0)))
    (entry,) = assert_faithful(net, net.op("Tanh", net.bn(y, 2)))[1].kept
    assert entry.site.batchnorm == "n_batchnormalization3"


def wrong_half(node: Any, inputs: Any, dtype: Any) -> Any:
    """Rounds down where ONNX's division of what is positive does too: one less."""
    return inputs[0] // inputs[1] - 1


MUTANTS: list[tuple[str, Any, Callable[[Net], str]]] = [
    ("Div", wrong_half, chunk),
    ("Transpose", lambda node, inputs, dtype: inputs[0], padded),
    ("Slice", lambda node, inputs, dtype: inputs[0], padded),
    ("Range", lambda node, inputs, dtype: np.arange(int(inputs[0]) - 1, -1, -2), counted),
]


@pytest.mark.parametrize(("op_type", "mutant", "build"), MUTANTS)
def test_a_wrong_size_is_caught(
    monkeypatch: pytest.MonkeyPatch, op_type: str, mutant: Any, build: Callable[[Net], str]
) -> None:
    net = Net(STATIC)
    y = build(net)
    right = judged(net, y)
    assert right
    monkeypatch.setitem(evaluate.PURE, op_type, mutant)
    assert judged(net, y) != right  # wrong, or refused since the sizes do not fit any more


def test_a_batch_norm_tells_the_size_of_what_is_copied_to_it() -> None:
    """Two become one scale and one shift, which are found again when another has gone."""
    net = Net(("N", "C", "H", "W"), ("N", 4, 6, 6))
    kept = net.op("Relu", net.bn(net.bn(net.op("CastLike", net.op("Identity", "x"), "x1"), 4), 4))
    report = folded(net.model(kept, net.op("Tanh", net.bn(net.conv("x1", 4, 4), 4))))[1]
    assert [entry.rule for entry in report.folded] == ["bn-bn", "conv-bn"]
    assert len(report.kept) == 1
