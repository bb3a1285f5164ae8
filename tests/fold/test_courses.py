"""What else a forward might do at other sizes, numbers, arguments, ranks: what one forbids is not folded."""

from __future__ import annotations

import enum
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import output, random_input, untouched
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful, hard

Course = Callable[[Any, Tensor], Any]

LARGE = 20
"""More than any size of the example."""


def when(condition: Callable[[Tensor], Any]) -> Course:
    """Something stands between the layer and its batch norm if the input is so."""

    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        return m.bn(y.abs() if condition(x) else y)  # type: ignore[no-any-return]

    return forward


# Conditions that do not hold for the example and hold for other inputs.
CONDITIONS: dict[str, Callable[[Tensor], Any]] = {
    "a size": lambda x: x.shape[2] > LARGE,
    "a second size": lambda x: x.shape[2] > 4 and x.shape[3] > LARGE,
    "two sizes": lambda x: x.shape[2] > LARGE and x.shape[3] > LARGE,
    "a shape": lambda x: x.shape[-2:] == (70, 70),
    "a list of sizes": lambda x: list(x.shape[2:]) == [70, 70],
    "a size that is divided": lambda x: x.shape[2] / 2 > LARGE,
    "a size that is rounded": lambda x: math.ceil(x.shape[2] / 4) > LARGE,
    "a product of sizes": lambda x: math.prod(x.shape[2:]) > LARGE**2,
    "a power of a size": lambda x: x.shape[2] ** 2 > LARGE**2,
    "the ratio of sizes": lambda x: x.shape[2] / x.shape[3] > 2,
    "the larger size": lambda x: max(x.shape[2:]) > LARGE,
    "a count": lambda x: x.numel() > LARGE**3,
    "a stride": lambda x: x.stride(1) > LARGE**2,
    "a number of bytes": lambda x: x.nbytes > LARGE**4,
    "the batch": lambda x: x.shape[0] > LARGE,
    "a loop": lambda x: sum(1 for _ in range(x.shape[2] - 5)),
    "a converted size": lambda x: int(x.shape[2]) > LARGE,
    "a length": lambda x: len(x) > LARGE,
    "a sum": lambda x: x.sum() > 1e6,
    "a number": lambda x: x.sum().item() == 7.0,
    "a window": lambda x: 0.25 < float(x.mean()) < 0.26,
    "a whole number": lambda x: int(x.max()) == 7,
    "equal tensors": lambda x: torch.equal(x, x * 0),
    "close tensors": lambda x: torch.allclose(x, x * 0),
    "a list of numbers": lambda x: max(x.flatten().tolist()) > 50,
    "an array": lambda x: x.detach().numpy().max() > 50,
    "a size that depends on numbers": lambda x: len(x.nonzero()) == 0,
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_that_may_hold_is_seen(name: str) -> None:
    report = assert_faithful(Base(when(CONDITIONS[name])), X, example_inputs=X).report
    assert [entry.site.batchnorm for entry in report.kept] == ["bn"]


# Numbers that depend on sizes: what they do to the layer's output is another thing at each size.
SIZED: dict[str, Course] = {
    "a factor": lambda m, x: m.bn(m.conv(x) * x.shape[3]),
    "a divisor": lambda m, x: m.bn(m.conv(x) / math.sqrt(x.size(2))),
    "a table": lambda m, x: m.bn(m.conv(x) + torch.arange(x.shape[3])),
    "a sum over places": lambda m, x: m.flat(m.conv(x).sum((2, 3))),
    "a border": lambda m, x: m.bn(functional.pad(m.conv(x), (0, x.shape[3] - 3))),
}


@pytest.mark.parametrize("given", [True, False], ids=["example", "no example"])
@pytest.mark.parametrize("name", SIZED)
def test_a_number_that_depends_on_sizes_is_no_constant(name: str, given: bool) -> None:
    network = Base(SIZED[name], flat=nn.BatchNorm1d(3))
    result = fold(network, X if given else None)
    for x in (X, random_input(1, 3, 4, 7), random_input(3, 3, 9, 5)):
        assert np.allclose(output(result.module, x), output(network, x), rtol=1e-9, atol=1e-9)


class Mode(enum.Enum):
    PLAIN = 1
    ABS = 2


class Arguments(Base):
    """Takes what arguments may be, each of which may put something between the layer and its batch norm."""

    def forward(
        self,
        x: Tensor,
        mask: Any = None,
        *more: Tensor,
        factor: float = 1.0,
        count: int = 0,
        kind: str = "plain",
        mode: Mode = Mode.PLAIN,
        sizes: Any = (3,),
        **flags: Any,
    ) -> Any:
        y = self.conv(x)
        use = self.use
        if use == "mask" and mask is not None:
            y = y.masked_fill(mask, 0.0)
        if use == "more" and more:
            y = y + more[0].abs()
        if use == "factor":
            y = y * factor
        if (use == "count" and count == 70) or (use == "kind" and kind == "absolute"):
            y = y.abs()
        if (use == "mode" and mode is Mode.ABS) or (use == "sizes" and len(sizes) > 1):
            y = y.abs()
        if use == "flags" and flags.get("absolute"):
            y = y.abs()
        return self.bn(y)


@pytest.mark.parametrize(
    "use", ["mask", "more", "factor", "count", "kind", "mode", "sizes", "flags", "nothing"]
)
def test_arguments_that_may_change_the_course_are_varied(use: str) -> None:
    network: Any = Arguments()
    network.use = use
    args = (X, None, X) if use == "more" else (X,)
    report = assert_faithful(network, *args, example_inputs=args).report
    assert len(report.folded) == (use == "nothing"), str(report)


RANKED: dict[str, tuple[list[nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    # layers, an example, and an input of another rank that the network takes before it is folded
    "linear": ([nn.Linear(6, 6), nn.BatchNorm1d(6)], (2, 6), (2, 6, 6)),
    "linear after": ([nn.BatchNorm1d(6), nn.Linear(6, 4)], (2, 6), (2, 6, 6)),
    "image without batch": ([nn.Conv1d(3, 6, 1), nn.BatchNorm1d(6)], (2, 3, 8), (3, 6)),
    "deeper": ([nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6)], (2, 5), (2, 6, 5)),
}


@pytest.mark.parametrize("name", RANKED)
def test_another_rank_is_refused_and_the_report_says_so(name: str) -> None:
    layers, example, other = RANKED[name]
    network = hard(nn.Sequential(*layers))
    result = assert_faithful(network, random_input(*example), example_inputs=random_input(*example))
    (entry,) = result.report.folded
    assert "at other ranks of its input" in str(entry.note)
    output(network, random_input(*other))
    with pytest.raises(ValueError, match=f"not of rank {len(other)}"):
        result.module(random_input(*other))


def test_a_forward_that_asks_for_the_rank_is_seen_at_another() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        alone = x.ndim == 3
        y = m.conv(x.unsqueeze(0) if alone else x)
        return m.bn(y.abs() if alone else y)

    assert len(assert_faithful(Base(forward), X, example_inputs=X).report.kept) == 1
    same = assert_faithful(Base(lambda m, x: m.bn(m.conv(x[None] if x.dim() == 3 else x))), X)
    assert len(same.report.folded) == 1
    alone = Base(lambda m, x: m.bn(m.conv(x).unsqueeze(0)))
    assert len(assert_faithful(alone, X[0], example_inputs=X[0]).report.folded) == 1


def _drawn() -> float:
    return random.random() + np.random.rand()  # noqa: NPY002, S311 - as a forward may


def _generators() -> object:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def test_random_numbers_of_others_are_left_as_they_were() -> None:
    network = Base(lambda m, x: m.bn(m.conv(x)) * _drawn())
    before = _generators()
    fold(network, X)
    assert _generators() == before


STATES: dict[str, tuple[Course, int]] = {
    # what a forward keeps, and how many batch norms are folded
    "a list made anew of the same tensors": (lambda m, x: _keep(m, [m.table], x), 1),
    "a tensor made anew with the same numbers": (lambda m, x: _keep(m, [m.table * 1.0], x), 1),
    "what depends on the inputs": (lambda m, x: _keep(m, [x.mean()], x), 0),
    "a counter in an object": (lambda m, x: _keep(m, m.last or Counter(), x), 0),
}


class Counter:
    def __init__(self) -> None:
        self.number = 0


def _keep(m: Any, kept: Any, x: Tensor) -> Any:
    y = m.bn(m.conv(x))
    if isinstance(kept, Counter):
        kept.number += 1
        y = y if kept.number < 5 else -y
    y = y + m.last[0] if isinstance(m.last, list) else y
    m.last = kept
    return y


@pytest.mark.parametrize("name", STATES)
def test_state_that_no_pass_changes_is_no_obstacle(name: str) -> None:
    forward, folded = STATES[name]
    network: Any = Base(forward)
    network.table = torch.linspace(1, 2, 3, dtype=torch.float64)[:, None, None]
    network.last = None if "object" in name else [network.table]
    with untouched(network):
        report = fold(network, X).report
    assert len(report.folded) == folded, str(report)


class Record:
    """An input that is no tensor."""

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.kind = 0


INPUTS: dict[str, tuple[Any, Callable[[Any, Any], Any], int]] = {
    # an input, a forward that takes it, and how many batch norms are folded
    "a key that may be there": (
        {"image": X},
        lambda m, d: m.bn(m.conv(d["image"]) * d["mask"] if "mask" in d else m.conv(d["image"])),
        0,
    ),
    "a key that is there": ({"image": X}, lambda m, d: m.bn(m.conv(d["image"])), 1),
    "a number in an object": (
        Record(X),
        lambda m, d: m.bn(m.conv(d.image).abs() if d.kind else m.conv(d.image)),
        0,
    ),
    "a number that nothing hangs on": (Record(X), lambda m, d: m.bn(m.conv(d.image)) + d.kind, 1),
}


class Handing(Base):
    """Its forward is a function that it holds."""

    def forward(self, record: Any) -> Any:
        return self.course(self, record)  # type: ignore[misc]  # it has one


@pytest.mark.parametrize("name", INPUTS)
def test_records_are_varied(name: str) -> None:
    given, forward, folded = INPUTS[name]
    report = fold(Handing(forward), (given,)).report
    assert len(report.folded) == folded, str(report)
