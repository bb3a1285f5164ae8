"""The checking can fail: each law, when it is broken, is caught by the comparison of outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.folding import absorb
from bn_deploy.folding.graph import computing, dense, linear, links, moving, pooling, sampling, weights
from bn_deploy.folding.graph.backward import _Walk
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.ways import WAYS
from tests.fold_onnx.graphs import BATCH, Net, judged

IMAGE = ("N", 4, 6, 6)


def after(net: Net) -> str:
    return net.bn(net.op("AveragePool", net.conv("x", 4, 4), kernel_shape=[2, 2]), 4)


def before(net: Net) -> str:
    return net.conv(net.bn("x", 4), 4, 4)


def transposed(net: Net) -> str:
    return net.bn(net.op("ConvTranspose", "x", net.normal(4, 4, 2, 2)), 4)


def matmul(net: Net) -> str:
    y = net.op("MatMul", net.op("GlobalAveragePool", "x"), net.normal(1, 4))
    return net.bn(net.op("Transpose", y, perm=[0, 3, 2, 1]), 4)


def row(net: Net) -> str:
    return net.bn(net.bn(net.conv("x", 4, 4), 4), 4)


def branches(net: Net) -> str:
    return net.bn(net.op("Sub", net.conv("x", 4, 4), net.conv("x", 4, 4)), 4)


def joined(net: Net) -> str:
    return net.bn(net.op("Concat", net.conv("x", 4, 2), net.conv("x", 4, 2), axis=1), 4)


def reshaped(net: Net) -> str:
    y = net.op("Reshape", net.conv("x", 4, 4), net.const(np.array([0, 2, 2, 6, 6])))
    y = net.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return net.bn(net.op("Reshape", y, net.const(np.array([0, 4, 6, 6]))), 4)


def positive(net: Net) -> str:
    return net.bn(net.op("MaxPool", net.conv("x", 4, 4), kernel_shape=[2, 2]), 4)


def padded(net: Net) -> str:
    return net.conv(net.bn("x", 4), 4, 4, 3, pads=[1] * 4)


def added_up(net: Net) -> str:
    return net.bn(net.op("ReduceSum", net.conv("x", 4, 4), net.const(np.array([2, 3]))), 4)


def heads(net: Net) -> str:
    y = net.op("MatMul", "x", net.normal(4, 6, 2))
    return str(net.op("Add", net.op("Mul", y, net.normal(4, 1, 2)), net.normal(4, 1, 2)))


def heads_before(net: Net) -> str:
    return str(net.op("MatMul", net.bn("x", 4), net.normal(4, 6, 2)))


def zeros_padded(net: Net) -> str:
    return net.bn(net.op("Pad", net.conv("x", 4, 4), net.const(np.array([0, 1, 0, 0, 0, 0, 0, 0]))), 5)


def sampled(net: Net) -> str:
    grid = net.const(net.random.integers(-12, 12, (BATCH, 2, 3, 2)) / 8)
    return net.bn(net.op("GridSample", net.conv("x", 4, 4), grid), 4)


def rectified(net: Net) -> str:
    return net.bn(net.op("Relu", net.conv("x", 4, 4)), 4, positive=True)


def shared(net: Net) -> str:
    y = net.conv("x", 4, 4)
    return str(net.op("Add", net.bn(y, 4), net.op("Tanh", y)))


def _after(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return absorb.absorb_after(weight, bias, affine, **axes)


def shift_lost(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return _after(weight, bias, Affine(affine.scale, 0 * affine.shift), **axes)


def bias_not_scaled(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return _after(weight, bias, affine, **axes)[0], bias + affine.shift


def one_percent(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return _after(weight, bias, Affine(1.01 * affine.scale, affine.shift), **axes)


def axes_swapped(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return absorb.absorb_before(weight, bias, affine, in_axis=1 - axes.get("out_axis", 0))[0], bias


def seen_lost(weight: Any, bias: Any, affine: Affine, **axes: Any) -> Any:
    return absorb.absorb_before(weight, bias, Affine(affine.scale, 0 * affine.shift), **axes)


def reversed_order(self: Field, other: Field) -> Field:
    return Field(other.scale * self.scale, self.scale * other.shift + self.shift)


def no_epsilon(self: BatchNormParams) -> Affine:
    scale = self.weight / np.sqrt(self.running_var)
    return Affine(scale, self.bias - self.running_mean * scale)


def wrong_bearer(network: Any, node: Any, fields: Any) -> Any:
    """Gives the shift to what is subtracted."""
    answer = dict(enumerate([fields[0].scaling, fields[0]]))
    return [answer]


def nothing(*_: Any) -> None:
    return None


MUTANTS: list[tuple[object, str, Any, Callable[[Net], str]]] = [
    (linear, "absorb_after", shift_lost, after),
    (linear, "absorb_after", bias_not_scaled, after),
    (linear, "absorb_after", one_percent, after),
    (linear, "absorb_after", one_percent, transposed),
    (dense, "absorb_after", shift_lost, matmul),
    (linear, "absorb_after", axes_swapped, after),
    (weights, "absorb_before", seen_lost, before),
    (linear, "_padded", lambda node, shape: False, padded),
    (Field, "then", reversed_order, row),
    (Field, "take", lambda self, axis, index: self, joined),
    (Field, "on_axes", lambda self, axes: self, reshaped),
    (BatchNormParams, "affine", no_epsilon, row),
    (pooling, "unsigned", nothing, positive),
    (pooling, "math", SimpleNamespace(prod=lambda sizes: 1), added_up),
    (dense, "absorb_after", shift_lost, heads),
    (dense, "absorb_after", one_percent, heads),
    (dense, "absorb_before", seen_lost, heads_before),
    (moving, "_require_fixed", nothing, zeros_padded),
    (sampling, "only_scale", nothing, sampled),
    (computing, "only_scale", nothing, rectified),
]


@pytest.mark.parametrize(
    ("home", "name", "mutant", "build"), MUTANTS, ids=lambda v: getattr(v, "__name__", str(v))[:20]
)
def test_a_broken_law_is_caught(
    monkeypatch: pytest.MonkeyPatch, home: object, name: str, mutant: Any, build: Callable[[Net], str]
) -> None:
    net = Net((BATCH, *IMAGE[1:]) if build is sampled else IMAGE)
    output = build(net)
    right = judged(net, output)
    assert right
    monkeypatch.setattr(home, name, mutant)
    assert judged(net, output) != right  # wrong, or refused since the sizes do not fit any more


def test_the_sign_of_a_written_out_difference_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    y = net.op("Sub", net.normal(4, 1, 1), net.op("Mul", net.conv("x", 4, 4), net.normal(4, 1, 1)))
    assert judged(net, y)
    monkeypatch.setitem(links._READERS, "Sub", links._add)
    assert not judged(net, y)


def test_the_sign_of_a_difference_of_branches_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    y = branches(net)
    assert judged(net, y)
    monkeypatch.setitem(WAYS, "Sub", dataclasses.replace(WAYS["Sub"], pull=wrong_bearer))
    assert not judged(net, y)


def test_readers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    y = shared(net)
    assert judged(net, y)
    monkeypatch.setattr(_Walk, "_check_readers", nothing)
    assert not judged(net, y)
