"""Graphs that somebody else reads back: nodes that have to stay, foreign operators, given shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from bn_deploy.folding.graph import network, passing
from bn_deploy.folding.graph.driver import fold_nodes
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.outcome import Refusal
from tests.fold_onnx.fixed import WHY, judged, own, run, typed
from tests.fold_onnx.graphs import Array, Net

IMAGE = ("N", 4, 6, 6)


FIXED: dict[str, Callable[[Net, str], str]] = {
    "Add": lambda n, y: n.op("Add", n.normal(4, 1, 1), y),
    "Sub": lambda n, y: n.op("Sub", n.normal(1, 4, 1, 1), y),
    "Mul": lambda n, y: n.op("Mul", y, n.normal(4, 1, 1)),
    "Div": lambda n, y: n.op("Div", y, n.normal(4, 1, 1)),
    "Neg": lambda n, y: n.op("Neg", y),
    "Identity": lambda n, y: n.op("Identity", y),
    "BatchNormalization": lambda n, y: n.bn(y, 4, positive=True),
}


def behind(net: Net, op_type: str) -> str:
    """A convolution, a fixed node, and a batch norm that only the convolution can absorb."""
    return str(net.op("Tanh", net.bn(FIXED[op_type](net, net.conv("x", 4, 4)), 4)))


def ahead(net: Net, op_type: str) -> str:
    """A batch norm, a fixed node, and a convolution that alone can absorb it."""
    return net.conv(FIXED[op_type](net, net.bn("x", 4)), 4, 3)


@pytest.mark.parametrize("build", [behind, ahead])
@pytest.mark.parametrize("op_type", FIXED)
def test_maps_change_places_with_a_fixed_node(op_type: str, build: Callable[[Net, str], str]) -> None:
    net = Net(IMAGE)
    model = typed(net, {}, build(net, op_type))
    result = judged(net, model, f"n_{op_type.lower()}1")
    (entry,) = result.report.folded
    assert f"through {op_type}" in entry.rule
    if op_type == "BatchNormalization":
        (kept,) = result.report.kept
        assert (kept.site.batchnorm, kept.reason) == ("n_batchnormalization1", WHY)
    else:
        assert not result.report.kept
    assert not result.changed


def scale_only(self: Field, fixed: Field) -> Field:
    return Field(self.scale, 0 * self.shift)


MUTANTS: list[tuple[str, Any, Callable[[Net, str], str]]] = [
    ("ahead_of", lambda self, fixed: self, behind),
    ("ahead_of", scale_only, behind),
    ("ahead_of", lambda self, fixed: self.behind(fixed), behind),
    ("behind", lambda self, fixed: self, ahead),
    ("behind", scale_only, ahead),
    ("behind", lambda self, fixed: self.ahead_of(fixed), ahead),
]


@pytest.mark.parametrize(("law", "mutant", "build"), MUTANTS)
def test_a_broken_exchange_is_caught(
    monkeypatch: pytest.MonkeyPatch, law: str, mutant: Any, build: Callable[[Net, str], str]
) -> None:
    monkeypatch.setattr(Field, law, mutant)
    for op_type in ("BatchNormalization", "Add"):
        net = Net(IMAGE)
        model = typed(net, {}, build(net, op_type))
        with pytest.raises(AssertionError):
            judged(net, model, f"n_{op_type.lower()}1")


def test_the_exchange_with_a_scale_of_zero() -> None:
    zero = Field(np.array([0.0, 2.0]), np.array([3.0, 4.0]))
    keeps_three = Field(np.array([2.0, 5.0]), np.array([-3.0, 1.0]))
    ahead = keeps_three.ahead_of(zero)
    x = np.array([7.0, 8.0])
    assert np.array_equal(keeps_three(zero(x)), zero(ahead(x)))
    with pytest.raises(Refusal, match="a scale of zero after it would swallow its shift"):
        Field(np.array([2.0, 5.0]), np.array([0.0, 1.0])).ahead_of(zero)
    assert np.array_equal(zero(keeps_three(x)), keeps_three.behind(zero)(zero(x)))


def constant_part(net: Net) -> str:
    y = net.op("Concat", net.conv("x", 4, 4), net.normal(2, 1, 6, 6), axis=1)
    return str(net.op("Tanh", net.bn(y, 5)))


REFUSED: dict[str, tuple[Callable[[Net], str], str, str]] = {
    # a graph, what is fixed in it, and the reason why its batch norm stays
    "absorbs after": (lambda n: n.op("Tanh", n.bn(n.conv("x", 4, 4), 4)), "n_conv0", WHY),
    "absorbs before": (lambda n: n.conv(n.bn("x", 4), 4, 4), "n_conv1", f"after it, {WHY}"),
    "batch norm": (lambda n: n.bn(n.conv("x", 4, 4), 4), "n_batchnormalization1", WHY),
    "batch norm, others around it": (lambda n: n.bn(n.bn("x", 4), 4), "n_batchnormalization1", WHY),
    "constant operand": (constant_part, "n_concat1", WHY),
    "swallowed": (
        lambda n: n.op("Tanh", n.bn(n.op("Mul", n.conv("x", 4, 4), n.const(np.zeros((4, 1, 1)))), 4)),
        "n_mul1",
        "a scale of zero after it would swallow its shift",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_fixed_stays(case: str) -> None:
    build, name, reason = REFUSED[case]
    net = Net((2, 4, 6, 6))
    result = judged(net, typed(net, {}, build(net)), name)
    assert not result.report.folded
    assert any(reason in entry.reason for entry in result.report.kept)
    assert not result.changed


@pytest.mark.parametrize("case", REFUSED)
def test_the_same_folds_when_nothing_is_fixed(case: str) -> None:
    net = Net((2, 4, 6, 6))
    assert judged(net, typed(net, {}, REFUSED[case][0](net))).report.folded


def row(net: Net) -> str:
    return net.bn(net.bn(net.op("Tanh", "x"), 4), 4)


def forwards(net: Net) -> str:
    return net.bn(net.op("AveragePool", net.bn(net.op("Tanh", "x"), 4), kernel_shape=[1, 1]), 4)


def backwards(net: Net) -> str:
    """A maximum lets only the second of the two pass."""
    y = net.op("MaxPool", net.bn(net.op("Tanh", "x"), 4), kernel_shape=[1, 1])
    return net.bn(y, 4, positive=True)


@pytest.mark.parametrize(("build", "stays"), [(row, 1), (forwards, 1), (backwards, 0)])
def test_what_stays_and_computes_another_map_is_told(build: Callable[[Net], str], stays: int) -> None:
    net = Net(IMAGE)
    model = typed(net, {}, str(net.op("Tanh", build(net))))
    names = [node.name for node in model.graph if node.op_type == "BatchNormalization"]
    maps = [formula(model, node) for node in list(model.graph) if node.op_type == "BatchNormalization"]
    result = judged(net, model)
    assert [entry.site.batchnorm for entry in result.report.kept] == [names[stays]]
    assert [entry.site.batchnorm for entry in result.report.folded] == [names[1 - stays]]
    (name, field), *rest = result.changed.items()
    assert (name, rest) == (names[stays], [])
    x = net.feeds()["x"]
    assert np.allclose(field(x), maps[1](maps[0](x)), rtol=1e-12)


def formula(model: ir.Model, node: ir.Node) -> Callable[[Array], Array]:
    """The map of a batch norm, straight from its formula."""
    column = (slice(None), None, None)
    w, b, m, v = (value.const_value.numpy()[column] for value in node.inputs[1:5])  # type: ignore[union-attr]
    return lambda x: w * (x - m) / np.sqrt(v + float(np.float32(1e-5))) + b


def test_what_stays_as_it_was_is_not_told() -> None:
    net = Net(IMAGE)
    result = judged(net, typed(net, {}, net.op("Tanh", net.bn(net.op("Tanh", "x"), 4))))
    assert len(result.report.kept) == 1
    assert not result.changed


def linear_after(net: Net, *bias: str) -> str:
    return net.bn(own(net, "Linear", "x", net.normal(5, 4), *bias), 5)


def linear_before(net: Net, *bias: str) -> str:
    return own(net, "Linear", net.bn("x", 4), net.normal(5, 4), *bias)


@pytest.mark.parametrize("build", [linear_after, linear_before])
@pytest.mark.parametrize("bias", ["there", "missing", "empty"])
def test_the_linear_operator_of_modules(build: Callable[..., str], bias: str) -> None:
    net = Net(("N", 4))
    given = {"there": [net.normal(5)], "missing": [], "empty": [""]}[bias]
    y = build(net, *given)
    shapes = {name: ("N", 5) for node in net.nodes for name in node.output}
    shapes |= {"batchnormalization0": ("N", 4)}
    model = typed(net, shapes, y)
    result = judged(net, model)
    assert [node.op_type for node in model.graph] == ["Linear"]
    assert len(model.graph[0].inputs) == 3
    assert [entry.rule for entry in result.report.folded] in (["linear-bn"], ["bn-linear into n_linear1"])


@pytest.mark.parametrize("after", [True, False])
def test_its_features_are_last(after: bool) -> None:
    net = Net(("N", 4, 4))
    y = "x" if after else net.bn("x", 4)
    y = own(net, "Linear", y, net.normal(4, 4))
    y = net.bn(y, 4) if after else y
    model = typed(net, {name: ("N", 4, 4) for node in net.nodes for name in node.output}, y)
    (kept,) = judged(net, model).report.kept
    assert "the map varies along axes [1], not along axis 2 alone" in kept.reason


def test_an_operator_of_that_name_from_elsewhere_is_opaque() -> None:
    net = Net(("N", 4))
    y = net.bn(own(net, "Conv", "x", net.normal(5, 4)), 5)
    model = typed(net, {name: ("N", 5) for node in net.nodes for name in node.output}, y)
    assert "neither absorbs" in fold_nodes(model, {}).report.kept[0].reason


def test_nothing_is_assumed_of_foreign_readers() -> None:
    net = Net(IMAGE)
    y = net.conv("x", 4, 4)
    sinks = [own(net, "Opaque", net.bn(y, 4)), own(net, "Opaque", net.bn(net.conv("x", 4, 4), 4))]
    own(net, "Opaque", y)
    shapes: dict[str, Any] = {name: IMAGE for node in net.nodes for name in node.output}
    model = typed(net, shapes)
    assert not model.graph.outputs
    before = run(model, net.feeds(), tuple(sinks))
    report = fold_nodes(model, {}).report
    assert [entry.site.batchnorm for entry in report.folded] == ["n_batchnormalization4"]
    assert "conv0 is used 2 times" in report.kept[0].reason
    assert sum(node.op_type == "Opaque" for node in model.graph) == 3
    for one, other in zip(before, run(model, net.feeds(), tuple(sinks)), strict=True):
        assert np.allclose(one, other, rtol=1e-10, atol=1e-10)


def test_parts_that_share_their_weights_get_the_same_new_ones() -> None:
    net = Net(IMAGE, IMAGE)
    weight, bias = net.normal(4, 4, 1, 1), net.normal(4)
    numbers = [net.const(array) for array in net.numbers(4)]
    outputs = [net.op("BatchNormalization", net.op("Conv", x, weight, bias), *numbers) for x in net.shapes]
    model = typed(net, {}, *outputs)
    assert len(judged(net, model).report.folded) == 2
    one, other = model.graph
    assert one.inputs[1] is other.inputs[1]
    assert one.inputs[1].name != weight  # type: ignore[union-attr]


def test_given_types_and_shapes_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("types and shapes were inferred")

    net = Net(("N", 4, None, "W"))
    y = net.op("Tanh", net.bn(net.op("AveragePool", net.conv("x", 4, 4), kernel_shape=[2, 2]), 4))
    shapes = {name: ("N", 4, None, None) for node in net.nodes for name in node.output}
    model = typed(net, shapes, y)
    with monkeypatch.context() as patch:
        patch.setattr(network, "inferred_dims", refuse)
        assert fold_nodes(model, {}).report.folded
        model.graph[0].outputs[0].shape = None
        with pytest.raises(AssertionError, match="inferred"):
            fold_nodes(model, {})


def test_a_fixed_map_is_applied_to_one_input() -> None:
    way = passing.conjugating(Field.identity(4), 0)
    with pytest.raises(Refusal, match="in an unusual way"):
        way.push(None, ir.Node("", "Add", []), {1: Field.identity(4)})  # type: ignore[arg-type]
