"""What the arguments of a forward have to do with folding: optional ones, examples, and their ranks."""

from __future__ import annotations

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
    (entry,) = assert_faithful(network, X).report.kept
    assert "another course when optional arguments (other, factor) are left out" in entry.reason


def test_an_optional_argument_that_is_only_used_is_none_of_folds_business() -> None:
    network = hard(Optional(lambda m, y: m.bn(y) * 2.0))
    assert len(assert_faithful(network, X).report.folded) == 1
    assert len(assert_faithful(network, X, X).report.folded) == 1


def test_any_keyword_arguments_are_refused() -> None:
    class Net(Base):
        def forward(self, x: Tensor, **other: Any) -> Any:
            y = self.conv(x)
            return self.bn(y) + y if other.get("skip") is None else self.bn(y)

    (entry,) = assert_faithful(Net(), X).report.kept
    assert "takes any keyword arguments" in entry.reason


def perceptron(*before: nn.Module) -> nn.Module:
    return hard(nn.Sequential(*before, nn.Linear(4, 5), nn.BatchNorm1d(5)))


def test_a_linear_layer_needs_rank_two() -> None:
    flat, deep = random_input(3, 4), random_input(3, 5, 4)
    (entry,) = assert_faithful(perceptron(), deep).report.kept
    assert "not proved that its input has rank 2" in entry.reason
    assert "pass example_inputs" in entry.reason
    (entry,) = assert_faithful(perceptron(), deep, example_inputs=(deep,)).report.kept
    assert "those of the layer before it at rank 2, but on the example inputs it takes rank 3" in entry.reason
    assert len(assert_faithful(perceptron(), flat, example_inputs=(flat,)).report.folded) == 1


@pytest.mark.parametrize("flatten", [nn.Flatten(), nn.Flatten(start_dim=2), nn.Flatten(0, 1)])
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
    with pytest.raises(ModelError, match=r"for a single tensor x pass \(x,\)"):
        fold(network, x)  # type: ignore[arg-type]


def test_example_inputs_that_take_another_course_are_refused() -> None:
    class Net(Base):
        def forward(self, x: Tensor) -> Any:
            y = self.conv(x)
            return self.bn(y) + self.conv(y) if type(x) is Tensor else self.bn(y)

    (entry,) = assert_faithful(Net(), X, example_inputs=(X,)).report.kept
    assert "calls other modules than when it is traced" in entry.reason
