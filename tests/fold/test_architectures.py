"""Ten architectures: what is counted by hand is what folds, whoever wrote the batch norms."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bn_deploy.folding.modules.driver import fold
from bn_deploy.folding.outcome import FoldResult
from tests.architectures import ARCHITECTURES
from tests.architectures.norms import NORMS, paths
from tests.architectures.numbers import inputs, network
from tests.batchnorm.layers import output, untouched
from tests.lenets import one_thread  # noqa: F401 - a fixture is used by being there

Array = NDArray[np.float64]

HALF_THE_DIGITS = np.sqrt(np.finfo(np.float64).eps)
"""Of sixteen digits these networks lose less than half, while a wrong fold is wrong in the first."""

each = pytest.mark.parametrize("name", ARCHITECTURES)
flavours = pytest.mark.parametrize("norm", NORMS)


@flavours
@each
def test_the_table_is_about_these_networks(name: str, norm: str) -> None:
    row = ARCHITECTURES[name]
    found = paths(network(row, norm))
    assert len(found) == row.batchnorms
    assert set(row.kept) <= set(found)


@each
def test_the_flavours_compute_the_same(name: str) -> None:
    row = ARCHITECTURES[name]
    x = inputs(row, 4).double()
    native, textbook = (output(network(row, norm).double(), x) for norm in NORMS)
    assert gap(textbook, native) <= HALF_THE_DIGITS


@flavours
@each
def test_all_that_can_be_folded_is(name: str, norm: str) -> None:
    row = ARCHITECTURES[name]
    report = folded_exactly(name, norm).report
    kept = [entry.site.batchnorm for entry in report.kept]
    assert sorted([*kept, *(entry.site.batchnorm for entry in report.folded)]) == paths(network(row, norm))
    assert all(entry.reason for entry in report.kept)
    assert set(kept) == set(row.kept), report
    assert len(report.folded) == row.foldable


@flavours
@each
def test_nothing_changes_nor_is_left_for_a_second_fold(name: str, norm: str) -> None:
    row = ARCHITECTURES[name]
    x = inputs(row, 4).double()
    after = folded_exactly(name, norm).module
    given = output(after, x)
    assert gap(given, output(network(row, norm).double(), x)) <= HALF_THE_DIGITS
    again = fold(after, (x,))
    assert not again.report.folded
    assert np.array_equal(output(again.module, x), given)


@flavours
@each
def test_every_number_is_the_exact_one_rounded_once(name: str, norm: str) -> None:
    row = ARCHITECTURES[name]
    exact = folded_exactly(name, norm).module.state_dict()
    given = fold(network(row, norm), (inputs(row, 2),)).module.state_dict()
    assert given.keys() == exact.keys()
    assert all(torch.equal(tensor, exact[key].to(tensor.dtype)) for key, tensor in given.items())


@each
def test_what_folding_rounds_is_less_than_what_the_network_rounds(name: str) -> None:
    """The folded float32 weights, computed with in float64, against the network's own float32 run.

    Not the folded network's own float32 run: a kernel that starts its sums at the bias rounds at the size of
    the bias, whoever put it there. One network may be lucky, so this is the geometric mean of two.
    """
    row = ARCHITECTURES[name]
    ratios = []
    for seed in range(2):
        before, x = network(row, seed=seed), inputs(row, 32, seed)
        expected = output(copy.deepcopy(before).double(), x.double())
        own = output(before, x) - expected
        added = output(fold(before, (x[:2],)).module.double(), x.double()) - expected
        ratios.append(rms(added) / rms(own))
    assert np.exp(np.mean(np.log(ratios))) <= 1.1


@cache
def folded_exactly(name: str, norm: str) -> FoldResult:
    """The fold of the network in float64."""
    row = ARCHITECTURES[name]
    before: nn.Module = network(row, norm).double()
    with untouched(before):
        return fold(before, (inputs(row, 2).double(),))


def gap(one: Array, other: Array) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(one - other).max() / np.abs(other).max())


def rms(array: Array) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(array))))
