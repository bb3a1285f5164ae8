"""The check that passes right folds fails wrong ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.folding import absorb
from bn_deploy.folding.graph import dense, linear, links, pooling, weights
from bn_deploy.folding.graph.field import Field
from tests.batchnorm.layers import random_input
from tests.fold.checking import assert_faithful, hard
from tests.fold.test_fold import check

Weights = NDArray[np.float64]
Absorbed = tuple[Weights, Weights]


def affine(scale: Weights, params: BatchNormParams) -> Affine:
    return Affine(scale, params.bias - params.running_mean * scale)


def swapped(p: BatchNormParams) -> Affine:
    scale = p.bias / np.sqrt(p.running_var + p.eps)
    return Affine(scale, p.weight - p.running_mean * scale)


AFFINE_MUTANTS: dict[str, Callable[[BatchNormParams], Affine]] = {
    "eps omitted": lambda p: affine(p.weight / np.sqrt(p.running_var), p),
    "eps added after the root": lambda p: affine(p.weight / (np.sqrt(p.running_var) + p.eps), p),
    "variance taken as deviation": lambda p: affine(p.weight / (p.running_var + p.eps), p),
    "mean with the wrong sign": lambda p: Affine(
        p.weight / np.sqrt(p.running_var + p.eps),
        p.bias + p.running_mean * p.weight / np.sqrt(p.running_var + p.eps),
    ),
    "mean not scaled": lambda p: Affine(p.weight / np.sqrt(p.running_var + p.eps), p.bias - p.running_mean),
    "weight and bias swapped": swapped,
    "scale off by one percent": lambda p: affine(1.01 * p.weight / np.sqrt(p.running_var + p.eps), p),
    "sign of the weight lost": lambda p: affine(np.abs(p.weight) / np.sqrt(p.running_var + p.eps), p),
    "channels reversed": lambda p: affine((p.weight / np.sqrt(p.running_var + p.eps))[::-1], p),
}


def right(weight: Weights, bias: Weights, by: Affine, **axes: Any) -> Absorbed:
    return absorb.absorb_after(weight, bias, by, **axes)


def wrong_axis(weight: Weights, bias: Weights, by: Affine, **axes: Any) -> Absorbed:
    scale = np.resize(by.scale, weight.shape[1])
    return weight * scale.reshape(1, -1, *[1] * (weight.ndim - 2)), right(weight, bias, by, **axes)[1]


def groups_ignored(weight: Weights, bias: Weights, by: Affine, *, out_axis: int, groups: int) -> Absorbed:
    if out_axis == 0:  # where groups do not matter, nothing is wrong
        return right(weight, bias, by)
    return wrong_axis(weight, bias, by, out_axis=out_axis, groups=groups)


def narrow(weight: Weights, bias: Weights, by: Affine, **axes: Any) -> Absorbed:
    new_weight, new_bias = right(weight, bias, by, **axes)
    return new_weight.astype(np.float32).astype(np.float64), new_bias


ABSORB_MUTANTS: dict[str, Callable[..., Absorbed]] = {
    "shift dropped": lambda w, b, by, **axes: (right(w, b, by, **axes)[0], by.scale * b),
    "existing bias not scaled": lambda w, b, by, **axes: (right(w, b, by, **axes)[0], b + by.shift),
    "existing bias lost": lambda w, b, by, **axes: (right(w, b, by, **axes)[0], by.shift),
    "weight not scaled": lambda w, b, by, **axes: (w, right(w, b, by, **axes)[1]),
    "wrong axis": wrong_axis,
    "algebra in float32": narrow,
}


@pytest.mark.parametrize("kind", ["Conv2d", "Linear"])
def test_the_right_fold_passes(kind: str) -> None:
    check(kind, "torch", 4)


@pytest.mark.parametrize("kind", ["Conv2d", "Linear"])
@pytest.mark.parametrize("name", AFFINE_MUTANTS)
def test_a_wrong_map_is_caught(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError, match="times the bound"):
        with_map(AFFINE_MUTANTS[name], kind, monkeypatch)


def with_map(mutant: Callable[[BatchNormParams], Affine], kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mutant(BatchNormParams):
        affine = mutant

    monkeypatch.setattr(links, "BatchNormParams", Mutant)
    check(kind, "torch", 4)


IN_A_MATRIX = ("shift dropped", "weight not scaled", "wrong axis", "algebra in float32")
"""Mutants that matter where the bias is scaled beside the law, which gets zeros."""


@pytest.mark.parametrize(
    ("kind", "name"), [*(("Conv2d", name) for name in ABSORB_MUTANTS), *(("Linear", n) for n in IN_A_MATRIX)]
)
def test_a_wrong_law_is_caught(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for home in (linear, dense):
        monkeypatch.setattr(home, "absorb_after", ABSORB_MUTANTS[name])
    with pytest.raises(AssertionError, match="times the bound"):
        check(kind, "torch", 4)


def test_ignored_groups_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "absorb_after", groups_ignored)
    check("Conv2d", "torch", 4, groups=2)
    with pytest.raises(AssertionError, match="times the bound"):
        check("ConvTranspose2d", "torch", 4, groups=2)


# Networks of which one law each is right, and what each is without that law.
def nets(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return hard(nn.Sequential(*layers))


def bn() -> nn.Module:
    return nn.BatchNorm2d(4)


def conv(**options: Any) -> nn.Module:
    return nn.Conv2d(4, 4, 3, **options)


class Joined(nn.Module):
    """Two branches, joined along the channels, and a batch norm of both."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.bn = nn.Conv2d(4, 2, 1), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(torch.cat([self.one(x), self.two(x)], 1))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Channels change places by a reshape, and a batch norm follows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), bn()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        turned = y.reshape(-1, 2, 2, *x.shape[2:]).transpose(1, 2)
        return self.bn(turned.flatten(1, 2))  # type: ignore[no-any-return]


def seen_lost(weight: Weights, bias: Weights, by: Affine, **axes: Any) -> Absorbed:
    return absorb.absorb_before(weight, bias, by, **axes)[0], bias


LAW_MUTANTS: list[tuple[str, Callable[[], nn.Module], object, str, Any]] = [
    ("law 3, shift lost", lambda: nets(bn(), conv()), weights, "absorb_before", seen_lost),
    (
        "law 3, scale lost",
        lambda: nets(bn(), conv()),
        linear,
        "absorb_before",
        lambda w, b, by, **_: (w, b),
    ),
    ("law 4, order", lambda: nets(conv(), bn(), bn()), Field, "then", lambda self, other: other),
    ("padding", lambda: nets(bn(), conv(padding=1)), linear, "_padded", lambda *_: False),
    (
        "sign of a scale under a maximum",
        lambda: nets(conv(), nn.MaxPool2d(2), bn()),
        pooling,
        "unsigned",
        lambda *_: None,
    ),
    ("channels of a concatenation", Joined, Field, "take", lambda self, axis, index: self),
    ("channels of a reshape", Shuffled, Field, "on_axes", lambda self, axes: self),
]


@pytest.mark.parametrize("row", LAW_MUTANTS, ids=lambda row: row[0])
def test_a_broken_law_is_caught(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, build, home, name, mutant = row
    network, x = hard(build()), random_input(2, 4, 6, 6)
    right = str(assert_faithful(network, x, example_inputs=x).report)
    monkeypatch.setattr(home, name, mutant)
    try:
        wrong = str(assert_faithful(network, x, example_inputs=x).report)
    except (AssertionError, ValueError, IndexError):
        return  # wrong, or sizes do not fit any more
    assert wrong != right
