"""The flip budget: counted in bins it is what counting every pair gives, a little more at most."""

from __future__ import annotations

import numpy as np
import pytest

from bn_deploy.verify.flips import BudgetTally, margins, wilson


def test_the_margin_is_the_lead_of_the_first() -> None:
    logits = np.array([[1.0, 5.0, 4.5], [2.0, 2.0, 0.0], [-3.0, -1.0, -2.0]])
    assert margins(logits).tolist() == [0.5, 0.0, 1.0]
    assert margins(np.ones((2, 1))).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 0.1, 10.0])
def test_the_budget_is_that_of_all_pairs_and_errs_towards_more(scale: float) -> None:
    generator = np.random.default_rng(2)
    exact = generator.normal(size=(400, 5))
    logits = exact + scale * generator.normal(size=exact.shape)
    tally = BudgetTally()
    flipped = np.concatenate(
        [tally.add(exact[part], logits[part]) for part in (slice(0, 150), slice(150, 400))]
    )
    budget = tally.result()
    shift = logits - exact
    error = np.abs(shift[np.arange(400), exact.argmax(axis=1)][:, None] - shift).max(axis=1)
    pairs = (error[None, :] >= margins(exact)[:, None]).mean(axis=1).sum()
    assert pairs <= budget.expected <= max(1.35 * pairs, pairs + 0.5)
    assert budget.observed == flipped.sum() == (logits.argmax(axis=1) != exact.argmax(axis=1)).sum()
    assert budget.low <= budget.expected <= budget.high
    assert budget.observed <= budget.high  # the budget counts what could flip, so it is seldom exceeded


def test_an_answer_that_is_no_number_is_a_flip_and_counts_as_the_largest_error() -> None:
    exact = np.array([[1.0, 0.0], [0.0, 1.0]])
    tally = BudgetTally()
    assert tally.add(exact, np.array([[np.nan, 0.0], [0.0, 1.0]])).tolist() == [True, False]
    assert tally.result().expected >= 1.0


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(0, 10, 0.0, 2.775), (5, 10, 2.366, 7.634), (10, 10, 7.225, 10.0), (1, 10_000, 0.177, 5.663)],
)
def test_the_interval_is_wilsons(count: float, total: int, low: float, high: float) -> None:
    assert list(wilson(count, total)) == pytest.approx([low, high], abs=2e-3)


def test_a_tally_takes_no_more_memory_for_more_images() -> None:
    generator = np.random.default_rng(0)
    tally = BudgetTally()
    size = tally.errors.nbytes + tally.margins.nbytes
    for _ in range(3):
        tally.add(generator.normal(size=(1000, 3)), generator.normal(size=(1000, 3)))
    assert tally.errors.nbytes + tally.margins.nbytes == size
    assert tally.images == tally.errors.sum() == tally.margins.sum() == 3000
