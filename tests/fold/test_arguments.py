"""What the arguments of a forward have to do with folding: optional ones, examples, and their ranks."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import random_input
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful, hard


class Optional(nn.Module):
    """Its second argument may be left out; what happens then is `missing`."""

    def __init__(self, missing: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.bn, self.missing = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), missing

    def forward(self, x: Tensor, other: Any = None, factor: float = 2.0) -> Any:
        y = self.conv(x)
        return self.missing(self, y) if other is None else self.bn(y) * factor


def test_an_optional_argument_that_changes_the_course_is_refused() -> None:
    network = hard(Optional(lambda m, y: m.bn(y) + y))
    for given in ((X,), (X, X)):  # whether the example leaves it out or not
        (entry,) = assert_faithful(network, *given, example_inputs=given).report.kept
        assert re.search("only . of its . observed calls can be folded|conv is used 2 times", entry.reason)


def test_an_optional_argument_that_is_only_used_is_none_of_folds_business() -> None:
    network = hard(Optional(lambda m, y: m.bn(y) * 2.0))
    assert len(assert_faithful(network, X).report.folded) == 1
    assert len(assert_faithful(network, X, X).report.folded) == 1


def test_a_named_argument_that_the_example_gives_is_left_out_too() -> None:
    class Net(Base):
        def forward(self, x: Tensor, *, plain: bool = False) -> Any:
            y = self.conv(x)
            return self.bn(y) if plain else self.bn(y) + y

    (entry,) = fold(Net(), {"x": X, "plain": True}).report.kept
    assert re.search("only . of its . observed calls can be folded", entry.reason)


def perceptron(*before: nn.Module) -> nn.Module:
    return hard(nn.Sequential(*before, nn.Linear(4, 5), nn.BatchNorm1d(5)))


def test_a_linear_layer_needs_rank_two() -> None:
    flat, deep = random_input(3, 4), random_input(3, 5, 4)
    for example in (None, (deep,)):  # without example, all ranks that it takes are tried
        assert len(assert_faithful(perceptron(), deep, example_inputs=example).report.kept) == 1
    folded = assert_faithful(perceptron(), flat, example_inputs=(flat,)).module
    with pytest.raises(ValueError, match=r"folded for inputs .* not of rank 3"):
        folded(deep)


@pytest.mark.parametrize("flatten", [nn.Flatten(), nn.Flatten(start_dim=2)])
def test_only_a_full_flatten_proves_rank_two(flatten: nn.Flatten) -> None:
    full = flatten.start_dim == 1
    report = fold(perceptron(flatten, nn.Linear(4, 4), nn.ReLU())).report
    assert (len(report.folded), len(report.kept)) == (full, not full)


@pytest.mark.parametrize(
    ("flat", "proves"),
    [
        (lambda x: torch.flatten(x, 1), True),
        (lambda x: x.flatten(start_dim=1), True),
        (lambda x: x.flatten(1), True),
        (lambda x: x.flatten(2), False),
        (lambda x: torch.flatten(x, 1, 2), False),
        (lambda x: x.relu(), False),
    ],
)
def test_flattening_without_a_layer_proves_it_too(flat: Callable[[Tensor], Tensor], proves: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.bn = nn.Linear(4, 5), nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.linear(flat(x)))  # type: ignore[no-any-return]

    assert len(fold(hard(Net())).report.folded) == proves


def test_example_inputs_are_not_changed_and_must_run() -> None:
    network = hard(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 5), nn.BatchNorm1d(5)))
    x = random_input(3, 4)
    before = x.clone()
    assert len(fold(network, (x,)).report.folded) == 1
    assert torch.equal(x, before)
    with pytest.raises(ModelError, match="fails on the example inputs: RuntimeError"):
        fold(network, (random_input(3, 7),))
    assert len(fold(network, x).report.folded) == len(fold(network, {"input": x}).report.folded) == 1


def test_a_forward_that_asks_for_a_type_is_folded_for_tensors() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return self.bn(y) if type(x) is Tensor else self.bn(y) + self.conv(y)

    assert len(assert_faithful(Net(), X, example_inputs=(X,)).report.folded) == 1
