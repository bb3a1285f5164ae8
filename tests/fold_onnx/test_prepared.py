"""Weights, biases and statistics that a graph computes from constants, and what only looks constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import helper

from bn_deploy.folding.graph import evaluate, known
from tests.fold_onnx.graphs import BATCH, Net, assert_faithful, assert_folds, assert_keeps, folded, judged

IMAGE = ("N", 4, 6, 6)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def standardised(net: Net) -> str:
    """Mean zero and variance one for each output."""
    weight, axes = net.normal(8, 4, 1, 1), index(net, 1, 2, 3)
    centred = net.op("Sub", weight, net.op("ReduceMean", weight, axes))
    variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes)
    return str(net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-3)))))


def by_a_batch_norm(net: Net) -> str:
    """The same, by a batch norm in training mode: (out, in) as one batch of `out` channels."""
    flat = net.op("Reshape", net.normal(8, 4, 1, 1), index(net, 1, 8, -1))
    one, zero = net.const(np.ones(8)), net.const(np.zeros(8))
    y = net.op("BatchNormalization", flat, one, zero, zero, one, training_mode=1, outputs=3)[0]
    return str(net.op("Reshape", y, index(net, 8, 4, 1, 1)))


def low_rank(net: Net) -> str:
    return str(
        net.op("Reshape", net.op("MatMul", net.normal(8, 2), net.normal(2, 4)), index(net, 8, 4, 1, 1))
    )


def weight_normed(net: Net) -> str:
    weight = net.normal(8, 4, 1, 1)
    length = net.op("ReduceL2", weight, index(net, 1, 2, 3))
    return str(net.op("Mul", weight, net.op("Div", net.normal(8, 1, 1, 1), length)))


def masked(net: Net) -> str:
    weight = net.normal(8, 4, 1, 1)
    kept = net.op("Greater", net.op("Abs", weight), net.const(0.5))
    return str(net.op("Where", kept, weight, net.const(0.0)))


def limited(net: Net) -> str:
    return str(net.op("Clip", net.op("Tanh", net.normal(8, 4, 1, 1)), net.const(-0.5), net.const(0.5)))


def picked(net: Net) -> str:
    weight = net.op("Gather", net.normal(16, 4, 1, 1), index(net, 3, 2, 1, 0, 9, 8, 7, -1))
    return str(net.op("Slice", weight, index(net, -1), index(net, -99), index(net, 0), index(net, -1)))


def mixed(net: Net) -> str:
    parts = net.op("Softmax", net.normal(1, 3), axis=-1)
    weights = net.op("Reshape", net.op("MatMul", parts, net.normal(3, 32)), index(net, 8, 4, 1, 1))
    return str(net.op("Mul", weights, net.op("Sigmoid", net.const(0.3))))


WEIGHTS: list[Callable[[Net], str]] = [
    *(standardised, by_a_batch_norm, low_rank, weight_normed, masked, limited, picked, mixed)
]


@pytest.mark.parametrize("weight", WEIGHTS)
def test_computed_weights_absorb(weight: Callable[[Net], str]) -> None:
    net = Net(IMAGE)
    y = net.op("Conv", "x", weight(net), net.normal(8))
    report = assert_folds(net, net.bn(y, 8), left={"Conv": 1})
    assert report.folded[-1].rule == "conv-bn"


@pytest.mark.parametrize("weight", WEIGHTS)
def test_they_absorb_what_comes_before_them(weight: Callable[[Net], str]) -> None:
    net = Net(IMAGE)
    assert_folds(net, net.op("Conv", net.bn("x", 4), weight(net)), left={"Conv": 1})


def test_a_missing_bias_that_is_written_as_zeros() -> None:
    """As the newer of torch's exporters writes it before it is cleaned up."""
    net = Net((BATCH, 4, 6, 6))
    weight = net.normal(8, 4, 1, 1)
    sizes = net.op("Shape", weight, start=0, end=1)
    bias = net.op("Expand", net.op("CastLike", net.const(np.array(0)), "x"), sizes)
    y = net.op("CastLike", net.op("Conv", "x", weight, bias), "x")
    assert_folds(net, net.bn(y, 8), left={"Conv": 1})


def from_data(net: Net) -> str:
    """It depends on the data: how many rows there are."""
    count = net.op("Cast", net.op("Shape", "x", start=0, end=1), to=11)
    return str(net.op("Mul", net.normal(8, 4, 1, 1), count))


def random_numbers(net: Net) -> str:
    return str(net.op("RandomNormal", shape=[8, 4, 1, 1], dtype=11, seed=1.0))


def enlarged(net: Net) -> str:
    """Too many numbers to be made by enlarging."""
    return str(net.op("Expand", net.normal(8, 4, 1, 1), index(net, 8, 4, 1 << 11, 1 << 11)))


@pytest.mark.parametrize("weight", [from_data, random_numbers, enlarged])
def test_what_is_not_constant(weight: Callable[[Net], str]) -> None:
    net = Net(IMAGE)
    y = net.op("Conv", "x", weight(net), pads=[1 << 10] * 4 if weight is enlarged else [0] * 4)
    _, report = folded(net.model(net.op("Tanh", net.bn(y, 8))))
    assert not report.folded
    assert "are not" in report.kept[0].reason


def test_a_rounding_that_decides_is_done_in_the_type_of_the_graph() -> None:
    """In single precision 0.1 + 0.2 is not below 0.3; in double it is not equal either."""
    net = Net(IMAGE, dtype=np.float32)
    total = net.op("Add", net.const(0.1), net.const(0.2))
    equal = net.op("Cast", net.op("Equal", total, net.const(np.float32(0.1) + np.float32(0.2))), to=1)
    weight = net.op("Mul", net.normal(8, 4, 1, 1), equal)
    before = net.model(net.bn(net.op("Conv", "x", weight), 8))
    after, report = folded(before)
    assert report.folded
    (made,) = [t for t in after.graph.initializer if len(t.dims) == 4]
    assert np.abs(np.frombuffer(made.raw_data, np.float32)).max() > 0


def test_the_numbers_of_an_input_are_only_a_default() -> None:
    net = Net(IMAGE)
    scale = net.const(2.0)
    y = net.bn(net.op("Conv", "x", net.op("Mul", net.normal(8, 4, 1, 1), scale)), 8)
    model = net.model(y)
    assert folded(model)[1].folded
    model.graph.input.append(helper.make_tensor_value_info(scale, 11, []))
    assert "are not constant" in folded(model)[1].kept[0].reason


MUTANTS: list[tuple[Any, str, Any, Callable[[Net], str]]] = [
    (evaluate.PURE, "ReduceMean", evaluate.PURE["ReduceSum"], standardised),
    (evaluate.PURE, "ReduceL2", evaluate.PURE["ReduceL1"], weight_normed),
    (evaluate.PURE, "Slice", evaluate.PURE["Identity"], picked),
    (evaluate.PURE, "Gather", lambda node, inputs, dtype: inputs[0][:8], picked),
    (evaluate.PURE, "Where", lambda node, inputs, dtype: inputs[1], masked),
    (evaluate.PURE, "Softmax", lambda node, inputs, dtype: inputs[0], mixed),
    (evaluate.PURE, "MatMul", lambda node, inputs, dtype: inputs[0] @ inputs[1][::-1], low_rank),
]


@pytest.mark.parametrize(("home", "name", "mutant", "weight"), MUTANTS, ids=lambda v: str(v)[:12])
def test_a_wrong_number_is_caught(
    monkeypatch: pytest.MonkeyPatch, home: Any, name: str, mutant: Any, weight: Callable[[Net], str]
) -> None:
    net = Net(IMAGE)
    y = net.bn(net.op("Conv", "x", weight(net), net.normal(8)), 8)
    assert judged(net, y)
    monkeypatch.setitem(home, name, mutant)
    assert not judged(net, y)


def test_what_may_be_overridden_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail: without the check it would."""
    net = Net(IMAGE)
    scale = net.const(2.0)
    y = net.bn(net.op("Conv", "x", net.op("Mul", net.normal(8, 4, 1, 1), scale)), 8)
    model = net.model(y)
    model.graph.input.append(helper.make_tensor_value_info(scale, 11, []))
    monkeypatch.setattr(known, "_OVERRIDABLE_SINCE", 99)
    assert folded(model)[1].folded


def test_a_batch_norm_of_constants_is_no_batch_norm_of_the_network() -> None:
    net = Net(IMAGE)
    _, report = assert_faithful(net, net.op("Tanh", net.op("Conv", "x", by_a_batch_norm(net))))
    assert [entry.rule for entry in report.folded] == ["removal: it reads constants"]
    assert not report.kept


def test_a_batch_norm_in_training_mode_of_data_stays() -> None:
    net = Net((BATCH, 4, 6, 6))
    numbers = [net.const(array) for array in net.numbers(4)]
    y = net.op("BatchNormalization", net.op("Tanh", "x"), *numbers, training_mode=1, outputs=3)[0]
    assert_keeps(net, net.op("Conv", y, standardised(net)), because="training mode")
