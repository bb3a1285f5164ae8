"""What takes parts, joins them or adds them up beside a batch norm; each refusal differs in one thing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from bn_deploy.folding.graph import computing, parts, pooling, sequences
from bn_deploy.folding.graph.backward import _Walk
from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.graph.field import Field
from tests.fold_onnx.graphs import BATCH, Net, assert_folds, assert_keeps, folded, judged

IMAGE = (BATCH, 4, 6, 6)
DOUBLE = onnx.TensorProto.DOUBLE
Build = Callable[[Net], str]


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def place(net: Net, number: int) -> str:
    return net.const(np.array(number))


def conv(net: Net, channels: int = 8) -> str:
    return net.conv("x", 4, channels)


def part(net: Net, y: str, start: int, end: int, axis: int = 1) -> str:
    return str(net.op("Slice", y, index(net, start), index(net, end), index(net, axis)))


def joined(net: Net, *values: str, axis: int = 1, **attributes: int) -> str:
    made = net.op("SequenceConstruct", *values)
    return str(net.op("ConcatFromSequence", made, axis=axis, **attributes))


def taken(net: Net, *values: str) -> str:
    made = net.op("SequenceConstruct", *values)
    return str(net.op("SequenceAt", made, place(net, 1)))


def cut(net: Net, y: str, along: int, **joining: int) -> str:
    """Split to a sequence of two, which is joined."""
    split = net.op("SplitToSequence", y, place(net, 4 if along == 1 else 3), axis=along)
    return str(net.op("ConcatFromSequence", split, **joining))


def rolled(net: Net, y: str, first: int, second: int) -> str:
    return str(net.op("Concat", part(net, y, first, 99), part(net, y, 0, second), axis=1))


def unbound(net: Net, y: str) -> str:
    """Every column by itself, and all of them side by side again."""
    columns = net.op("Split", y, axis=3, outputs=6, num_outputs=6)
    single = [net.op("Squeeze", column, index(net, 3)) for column in columns]
    return str(net.op("Concat", *(net.op("Unsqueeze", one, index(net, 3)) for one in single), axis=3))


def mean_by_hand(net: Net, y: str) -> str:
    """A sum over places, divided by how many there are, as the shape says."""
    shape = net.op("Shape", y)
    high, wide = (net.op("Gather", shape, place(net, axis)) for axis in (2, 3))
    count = net.op("Cast", net.op("Mul", high, wide), to=DOUBLE)
    return str(net.op("Div", net.op("ReduceSum", y, index(net, 2, 3), keepdims=0), count))


def aligned(net: Net, y: str, axis: int, channels: int = 8) -> str:
    positions = net.const(net.random.integers(0, 6, (BATCH, channels, 6, 6)))
    return str(net.op("GatherElements", y, positions, axis=axis))


def dropped(net: Net, y: str, *, trains: bool = False) -> str:
    """A Dropout whose mask is used."""
    ratio = net.const(np.float32(0.5), np.float32)
    kept, mask = net.op("Dropout", y, ratio, net.const(np.array(trains)), outputs=2)
    return str(net.op("Where", mask, kept, net.const(2.0)))


FOLDS: dict[str, Build] = {
    "a sum over places": lambda n: n.bn(n.op("ReduceSum", conv(n), index(n, 2, 3)), 8),
    "a mean by hand": lambda n: n.bn(mean_by_hand(n, conv(n)), 8),
    "a mean by a factor": lambda n: n.bn(
        n.op("Mul", n.op("ReduceSum", conv(n), index(n, 2, 3)), n.const(1 / 36)), 8
    ),
    "unbound and stacked": lambda n: n.bn(unbound(n, conv(n)), 8),
    "channels rolled": lambda n: n.bn(rolled(n, conv(n), 3, 3), 8),
    "some channels left out": lambda n: n.bn(rolled(n, conv(n), 5, 3), 6),
    "two of a size": lambda n: n.bn(joined(n, conv(n), conv(n)), 16),
    "two side by side": lambda n: n.bn(joined(n, conv(n), conv(n), axis=-1), 8),
    "two stacked": lambda n: n.bn(joined(n, conv(n), conv(n), axis=2, new_axis=1), 8),
    "one of two": lambda n: n.bn(taken(n, n.op("Tanh", "x"), conv(n)), 8),
    "cut and joined": lambda n: n.bn(cut(n, conv(n), 1, axis=1), 8),
    "cut and joined elsewhere": lambda n: n.bn(cut(n, conv(n), 2, axis=3), 8),
    "cut and stacked": lambda n: n.bn(cut(n, conv(n), 2, axis=2, new_axis=1), 8),
    "a running sum": lambda n: n.scale(n.op("CumSum", conv(n), place(n, 2), reverse=1), 8),
    "a norm of what is around": lambda n: n.scale(n.op("LpPool", conv(n), kernel_shape=[2, 2]), 8),
    "places in any order": lambda n: n.bn(aligned(n, conv(n), 3), 8),
    "a triangle": lambda n: n.scale(n.op("Trilu", conv(n)), 8),
    "the mask of a dropout": lambda n: n.bn(dropped(n, conv(n)), 8),
}


@pytest.mark.parametrize("case", FOLDS)
def test_goes_into_what_is_before(case: str) -> None:
    net = Net(IMAGE)
    assert_folds(net, net.op("Tanh", FOLDS[case](net)))


FORWARDS: dict[str, Build] = {
    "a running sum": lambda n: n.conv(n.op("CumSum", n.scale("x", 4), place(n, -1), exclusive=1), 4, 3),
    "places in any order": lambda n: n.conv(aligned(n, n.bn("x", 4), 2, 4), 4, 3),
    "a triangle": lambda n: n.conv(n.op("Trilu", n.scale("x", 4), upper=0), 4, 3),
    "one of two": lambda n: n.conv(taken(n, n.op("Tanh", "x"), n.bn("x", 4)), 4, 3),
    "two in a sequence": lambda n: n.conv(joined(n, n.op("Tanh", "x"), n.bn("x", 4)), 8, 3),
    "two side by side": lambda n: n.conv(joined(n, (y := n.bn("x", 4)), y, axis=2), 4, 3),
    "two stacked": lambda n: n.op(
        "Einsum",
        joined(n, (y := n.bn("x", 4)), y, axis=1, new_axis=1),
        n.normal(4, 3),
        equation="nkchw,co->nkohw",
    ),
    "cut and joined": lambda n: n.conv(cut(n, n.bn("x", 4), 2, axis=2), 4, 3),
    "cut and joined elsewhere": lambda n: n.conv(cut(n, n.bn("x", 4), 2, axis=3), 4, 3),
}


@pytest.mark.parametrize("case", FORWARDS)
def test_goes_into_what_is_behind(case: str) -> None:
    net = Net(IMAGE)
    assert_folds(net, net.op("Tanh", FORWARDS[case](net)))


def from_elsewhere(net: Net) -> str:
    more = net.op("SequenceInsert", net.op("SequenceConstruct", conv(net)), conv(net))
    return net.bn(net.op("SequenceAt", more, place(net, 1)), 8)


def unknown_axis(net: Net) -> str:
    axis = net.op("Cast", net.op("ReduceMax", "x", keepdims=0), to=7)
    return net.scale(net.op("CumSum", conv(net), axis), 8)


REFUSED: dict[str, tuple[Build, str]] = {
    "one column of several": (
        lambda n: (
            (two := n.op("Split", conv(n), axis=3, outputs=2, num_outputs=2)),
            n.op("Add", n.bn(two[0], 8), n.op("Tanh", two[1])),
        )[1],
        "the map varies along axes [1, 3]",
    ),
    "parts that overlap": (lambda n: n.bn(rolled(n, conv(n), 3, 4), 9), "need different maps"),
    "a part that is read": (
        lambda n: ((y := conv(n)), n.op("Add", n.op("Tanh", y), n.bn(rolled(n, y, 4, 4), 8)))[1],
        "is used 3 times",
    ),
    "one of two that is read": (
        lambda n: ((y := conv(n)), n.op("Add", n.op("Tanh", y), n.bn(taken(n, "x", y), 8)))[1],
        "is used 2 times",
    ),
    "a sequence from elsewhere": (from_elsewhere, "takes a part of is not known"),
    "one value in two places": (
        lambda n: ((y := conv(n)), n.bn(joined(n, y, y), 16))[1],
        "need different maps",
    ),
    "two of different sizes": (lambda n: n.bn(joined(n, conv(n), conv(n, 4)), 12), "differ in size"),
    "cut along channels": (
        lambda n: n.bn(cut(n, conv(n), 1, axis=2), 4),
        "mixes elements that get different scales",
    ),
    "a running sum of shifts": (
        lambda n: n.bn(n.op("CumSum", conv(n), place(n, 2)), 8),
        "a shift does not pass n_cumsum1",
    ),
    "a running sum over channels": (
        lambda n: n.scale(n.op("CumSum", conv(n), place(n, 1)), 8),
        "n_cumsum1 mixes elements that get different scales",
    ),
    "a running sum, unknown along what": (unknown_axis, "the axis of n_cumsum3 is not known"),
    "a shifted norm": (
        lambda n: n.bn(n.op("LpPool", conv(n), kernel_shape=[2, 2]), 8),
        "a shift does not pass n_lppool1",
    ),
    "channels in any order": (lambda n: n.bn(aligned(n, conv(n), 1), 8), "n_gatherelements1 mixes"),
    "places of some channels": (
        lambda n: n.bn(aligned(n, conv(n), 3, 5), 5),
        "what n_gatherelements1 takes is not known",
    ),
    "a shifted triangle": (lambda n: n.bn(n.op("Trilu", conv(n)), 8), "a shift does not pass n_trilu1"),
    "a mask that drops": (lambda n: n.bn(dropped(n, conv(n), trains=True), 8), "may be in training mode"),
}


NOT_RUN = {"a mask that drops", "places of some channels"}
"""What is random, and what ONNX's reference cannot do."""


@pytest.mark.parametrize("case", REFUSED)
def test_kept_with_the_reason(case: str) -> None:
    build, reason = REFUSED[case]
    net = Net(IMAGE)
    y = net.op("Tanh", build(net))
    if case not in NOT_RUN:
        assert_keeps(net, y, because=reason)
        return
    report = folded(net.model(y))[1]
    assert not report.folded
    assert reason in report.kept[0].reason


UNKNOWN: dict[str, tuple[Build, str]] = {
    "a sum": (lambda n: n.bn(n.op("ReduceSum", conv(n), index(n, 2, 3)), 8), "how many elements"),
    "a mean by hand": (lambda n: n.bn(mean_by_hand(n, conv(n)), 8), "a shift does not pass n_div"),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_a_sum_of_unknown_size_is_kept(case: str) -> None:
    build, reason = UNKNOWN[case]
    net = Net(("N", 4, "H", "W"))
    assert_keeps(net, net.op("Tanh", build(net)), because=reason)


def test_a_stack_of_unknown_size_is_not_scaled_place_by_place() -> None:
    """A map along an axis whose size is not known could not be recognised again once it is written."""
    net = Net(IMAGE)
    y = conv(net)
    stacked = joined(net, net.bn(y, 8), y, axis=2, new_axis=1)
    assert_keeps(net, net.op("Tanh", net.bn(stacked, 8)), because="")


def passes(*_: object) -> None:
    """A check that refuses nothing."""


def swapped(field: Field, number: int) -> Field:
    return ONE(field, 1 - number)


def beside(*given: Any) -> int:
    return 1 - PLACE(*given)


ONE, PLACE = sequences._one, sequences._place
MUTANTS: tuple[tuple[object, str, Any, Build], ...] = (
    (sequences, "_one", swapped, FOLDS["two of a size"]),
    (sequences, "_place", beside, lambda n: n.bn(taken(n, conv(n), conv(n)), 8)),
    (_Walk, "_check_joined", passes, REFUSED["parts that overlap"][0]),
    (pooling, "only_scale", passes, REFUSED["a running sum of shifts"][0]),
    (pooling, "uniform", passes, REFUSED["a running sum over channels"][0]),
    (parts, "uniform", passes, REFUSED["channels in any order"][0]),
    (computing, "only_scale", passes, REFUSED["a shifted triangle"][0]),
)


@pytest.mark.parametrize("number", range(len(MUTANTS)))
def test_a_law_that_is_broken_is_caught(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    home, name, mutant, build = MUTANTS[number]
    net = Net(IMAGE)
    y = net.op("Tanh", build(net))
    assert judged(net, y)
    monkeypatch.setattr(home, name, mutant)
    assert not judged(net, y)


def test_new_weights_are_made_once_all_else_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A way that leads nowhere costs no reading of weights."""
    net = Net(IMAGE)
    y = conv(net, 4)
    model = ir.from_proto(net.model(net.op("Tanh", net.bn(net.op("Add", y, "x"), 4))))
    monkeypatch.setattr("bn_deploy.folding.graph.linear.edited", passes)
    assert "an input of the network" in fold_model(model).kept[0].reason
