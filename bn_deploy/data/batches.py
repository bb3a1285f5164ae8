"""The order in which rows are visited: in sequence, or shuffled by a seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import InputError


def slices(count: int, batch: int) -> Iterator[slice]:
    """Cuts `count` rows into consecutive slices of `batch` rows; the last may be shorter.

    Raises:
        InputError: `batch` is less than 1.
    """
    if batch < 1:
        raise InputError(f"a batch must have at least 1 row, not {batch}")
    return (slice(start, min(start + batch, count)) for start in range(0, count, batch))


def shuffled(count: int, batch: int, *, seed: int, epoch: int) -> Iterator[NDArray[np.int64]]:
    """Visits each of `count` rows once, in an order that depends on `seed` and `epoch` alone.

    The epoch is part of the seed, so that training can start again at any epoch and see the same batches.

    Returns:
        The row indices (batch,) of each batch; the last may be shorter.

    Raises:
        InputError: `batch` is less than 1, or `seed` or `epoch` is negative.
    """
    if seed < 0 or epoch < 0:
        raise InputError(f"seed and epoch must not be negative, not {seed} and {epoch}")
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64, copy=False)
    return (order[rows] for rows in slices(count, batch))
