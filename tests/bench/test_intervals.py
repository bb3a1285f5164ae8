from __future__ import annotations

import itertools

import numpy as np
import pytest

from bn_deploy.bench.intervals import FEWEST, paired, unpaired


def test_too_few_processes_give_no_interval() -> None:
    for count in range(FEWEST):
        assert paired(np.arange(count, dtype=np.float64)) is None
    assert paired(np.arange(FEWEST, dtype=np.float64)) is not None
    assert unpaired(np.arange(3.0), np.arange(3.0)) is None
    assert unpaired(np.arange(4.0), np.arange(4.0)) is not None


@pytest.mark.parametrize(("count", "left_out"), [(6, 0), (7, 0), (8, 0), (9, 1), (11, 1), (12, 2), (20, 5)])
def test_as_many_are_left_out_as_the_level_allows(count: int, left_out: int) -> None:
    # From tables of the sign test at 5 %, two-sided.
    values = np.random.default_rng(0).permutation(2.0 ** np.arange(count))
    assert paired(values) == (2.0**left_out, 2.0 ** (count - 1 - left_out))


def test_the_level_is_exact_whatever_the_distribution() -> None:
    # Every way in which nine numbers can lie on either side of their median.
    sizes = np.array([0.1, 0.2, 0.5, 1.0, 3.0, 20.0, 400.0, 401.0, 1e9])
    missed = 0
    for signs in itertools.product((-1, 1), repeat=9):
        found = paired(sizes * signs)
        assert found is not None
        missed += not found[0] <= 0 <= found[1]
    assert missed / 512 == 20 / 512, "3.9 %"


def test_one_process_that_fared_badly_takes_no_verdict_away() -> None:
    found = paired(np.array([0.050, 0.049, 0.051, 0.048, 0.052, 0.0495, 0.0505, 0.051, -3.0]))
    assert found is not None
    assert found[0] > 0.04


def test_the_bootstrap_would_not_do() -> None:
    # The claim of the module: the second smallest to the second largest of seven covers in 87.5 %.
    draw = np.random.default_rng(5)
    values = draw.standard_cauchy((20_000, 7))
    values.sort(axis=1)
    covered = ((values[:, 1] <= 0) & (values[:, 5] >= 0)).mean()
    assert covered == pytest.approx(0.875, abs=0.01)


@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
def test_both_intervals_cover(draw: str) -> None:
    generator = np.random.default_rng(3)
    trials, seen = 2000, [0, 0]
    for _ in range(trials):
        before, after = getattr(generator, draw)((2, 9))
        for place, found in enumerate((paired(before), unpaired(before, after))):
            assert found is not None
            seen[place] += found[0] <= 0 <= found[1]
    assert all(0.94 <= count / trials <= 0.975 for count in seen), seen


def test_an_unpaired_shift_has_the_sign_of_what_came_after() -> None:
    found = unpaired(np.arange(7.0), np.arange(7.0) + 100)
    assert found is not None
    assert found[0] <= 100 <= found[1]
    assert found[0] > 90
