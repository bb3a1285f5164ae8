from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bn_deploy.data.batches import shuffled, slices
from bn_deploy.errors import InputError


@pytest.mark.parametrize(
    ("count", "batch", "expected"),
    [
        (0, 4, []),
        (3, 4, [(0, 3)]),
        (8, 4, [(0, 4), (4, 8)]),
        (9, 4, [(0, 4), (4, 8), (8, 9)]),
        (2, 1, [(0, 1), (1, 2)]),
    ],
)
def test_slices_cover_every_row_once_in_order(
    count: int, batch: int, expected: list[tuple[int, int]]
) -> None:
    assert [(rows.start, rows.stop) for rows in slices(count, batch)] == expected


@pytest.mark.parametrize(("count", "batch"), [(10, 3), (10, 5), (10, 100), (1, 1), (0, 3)])
def test_shuffled_visits_every_row_once(count: int, batch: int) -> None:
    batches = list(shuffled(count, batch, seed=1, epoch=2))
    assert all(rows.dtype == np.int64 for rows in batches)
    assert [len(rows) for rows in batches] == [rows.stop - rows.start for rows in slices(count, batch)]
    assert sorted(np.concatenate([np.empty(0, np.int64), *batches])) == list(range(count))


def order(seed: int, epoch: int) -> list[int]:
    return [int(row) for rows in shuffled(100, 7, seed=seed, epoch=epoch) for row in rows]


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(1, 2) == order(1, 2)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) != list(range(100))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: slices(5, 0), "at least 1 row, not 0"),
        (lambda: shuffled(5, -1, seed=0, epoch=0), "at least 1 row, not -1"),
        (lambda: shuffled(5, 1, seed=-1, epoch=0), "must not be negative, not -1 and 0"),
        (lambda: shuffled(5, 1, seed=0, epoch=-1), "must not be negative, not 0 and -1"),
    ],
    ids=["no-rows", "negative-rows", "seed", "epoch"],
)
def test_nonsense_is_refused_when_asked_not_when_used(ask: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask()
