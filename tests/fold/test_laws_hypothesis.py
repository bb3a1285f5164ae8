"""The algebra on drawn numbers, and fold() on drawn networks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.absorb import absorb_after
from tests.batchnorm.layers import random_input
from tests.fold.checking import assert_faithful, hard

FIXED = settings(deadline=None, derandomize=True, max_examples=50, database=None)
EPS = np.finfo(np.float64).eps

numbers = st.floats(-1e3, 1e3, allow_subnormal=False)


@st.composite
def affines(draw: st.DrawFn, channels: int) -> Affine:
    vectors = st.lists(numbers, min_size=channels, max_size=channels)
    return Affine(np.array(draw(vectors)), np.array(draw(vectors)))


@st.composite
def rows(draw: st.DrawFn, count: int) -> tuple[Affine, ...]:
    channels = draw(st.integers(1, 5))
    return tuple(draw(affines(channels)) for _ in range(count))


def close(first: Affine, second: Affine, magnitude: float) -> bool:
    """Equal but for eight roundings of terms no larger than `magnitude`."""
    gaps = (first.scale - second.scale, first.shift - second.shift)
    return all(bool(np.all(np.abs(gap) <= 8 * EPS * magnitude)) for gap in gaps)


def largest(*maps: Affine) -> float:
    """An upper bound of every term in the composition of maps: (1 + |scale|)(1 + |shift|), multiplied."""
    product = 1.0
    for affine in maps:
        product *= (1 + np.abs(affine.scale).max()) * (1 + np.abs(affine.shift).max())
    return product


@FIXED
@given(rows(3))
def test_composition_is_associative(maps: tuple[Affine, ...]) -> None:
    a, b, c = maps
    assert close(a.then(b).then(c), a.then(b.then(c)), largest(a, b, c))


@FIXED
@given(rows(1))
def test_identity_is_neutral(maps: tuple[Affine, ...]) -> None:
    (a,) = maps
    for same in (a.then(Affine.identity(a.channels)), Affine.identity(a.channels).then(a)):
        assert np.array_equal(same.scale, a.scale)
        assert np.array_equal(same.shift, a.shift)


@FIXED
@given(rows(2), st.integers(0, 99))
def test_composition_is_one_map_after_the_other(maps: tuple[Affine, ...], seed: int) -> None:
    a, b = maps
    x = np.random.default_rng(seed).normal(size=(3, a.channels))
    bound = 8 * EPS * largest(a, b) * (1 + np.abs(x))
    assert np.all(np.abs(a.then(b)(x) - b(a(x))) <= bound)


@FIXED
@given(rows(1), st.integers(1, 6), st.integers(0, 99))
def test_absorbing_is_evaluating_one_after_the_other(maps: tuple[Affine, ...], width: int, seed: int) -> None:
    (a,) = maps
    rng = np.random.default_rng(seed)
    weight, bias, x = (rng.normal(size=size) for size in ((a.channels, width), a.channels, (4, width)))
    new_weight, new_bias = absorb_after(weight, bias, a)
    operands = np.abs(a.scale) * (np.abs(x) @ np.abs(weight).T + np.abs(bias)) + np.abs(a.shift)
    # Two sums of `width` products, each off by half an eps a term, and fewer than eight other roundings.
    bound = (width + 8) * EPS * operands
    assert np.all(np.abs((x @ new_weight.T + new_bias) - a(x @ weight.T + bias)) <= bound)


LAYERS = ("conv", "grouped", "transposed", "bn", "relu", "dropout")


@settings(FIXED, max_examples=20)
@given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=7), st.integers(0, 99))
def test_drawn_networks_keep_their_function(names: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    make: dict[str, Callable[[], nn.Module]] = {
        "conv": lambda: nn.Conv2d(4, 4, 3, padding=1, bias=False),
        "grouped": lambda: nn.Conv2d(4, 4, 1, groups=2),
        "transposed": lambda: nn.ConvTranspose2d(4, 4, 3, padding=1, groups=2),
        "bn": lambda: nn.BatchNorm2d(4),
        "relu": nn.ReLU,
        "dropout": nn.Dropout,
    }
    network = hard(nn.Sequential(*(make[name]() for name in names)), seed)
    result = assert_faithful(network, random_input(2, 4, 3, 3, seed=seed))
    linear, foldable = False, 0
    for name in names:  # some others are folded into what follows
        foldable += linear and name == "bn"
        linear = name in ("conv", "grouped", "transposed") or (linear and name in ("bn", "dropout"))
    assert len(result.report.folded) >= foldable
