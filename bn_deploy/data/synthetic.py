"""A data set that the package makes itself: ten garments, drawn from a seed.

It needs no file and no network, and takes Fashion-MNIST's place where that cannot be had. Every garment has a
random cut, pose, cloth and brightness, and the cuts of neighbours overlap on purpose (a shirt may look like a
T-shirt, a pullover or a coat), so that it can be learnt but not by heart.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bn_deploy.artifact import sha256_bytes
from bn_deploy.data.dataset import GARMENTS, Dataset, Split
from bn_deploy.data.garments import DRAWERS, PIXELS_PER_UNIT, Dice, Field
from bn_deploy.errors import InputError
from bn_deploy.spec import Track, silent

SIDE = 28

TRAIN_COUNT = 20_000
TEST_COUNT = 10_000


def load(*, data_dir: Path | None = None, download: bool = True, track: Track = silent) -> Dataset:  # noqa: ARG001 - the signature of every data set's `load`
    """Makes the set in its default size; a folder or a network would add nothing to it."""
    return make(track=track)


def make(
    train_count: int = TRAIN_COUNT, test_count: int = TEST_COUNT, *, seed: int = 0, track: Track = silent
) -> Dataset:
    """Draws the set; the same arguments give the same bits.

    Args:
        train_count: number of images to learn from.
        test_count: number of images to be judged by.
        seed: which of the possible sets; not negative.
        track: shows the progress of drawing.

    Raises:
        InputError: a count is less than 1, or the seed is negative.
    """
    if min(train_count, test_count) < 1 or seed < 0:
        raise InputError(
            f"the synthetic set needs counts of at least 1 and a seed of at least 0, not {train_count} and "
            f"{test_count} images with seed {seed}"
        )
    parts = [(count, [seed, part]) for part, count in enumerate((train_count, test_count))]
    drawn = [_draw(count, seeds) for count, seeds in track(parts, "draw garments", len(parts))]
    (train_images, train_labels), (test_images, test_labels) = drawn
    return Dataset(
        name="synthetic",
        classes=GARMENTS,
        train=Split.of(train_images, train_labels),
        test=Split.of(test_images, test_labels),
        digest=sha256_bytes(
            b"".join(b"%d " % len(array) + array.tobytes() for pair in drawn for array in pair)
        ),
        licence="none needed: drawn by this package",
    )


def _draw(count: int, seeds: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (count, 28, 28) and labels (count,): classes as equal in number as can be, in random order."""
    generator = np.random.default_rng(seeds)
    # Not `permutation`, whose algorithm NumPy may change: the order, too, should be the same everywhere.
    order = np.argsort(generator.random(count), kind="stable")
    labels = (order % len(DRAWERS)).astype(np.uint8)
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    for label in range(len(DRAWERS)):
        rows = np.flatnonzero(labels == label)
        images[rows] = _draw_class(label, Dice(generator, len(rows)))
    return images, labels


def _draw_class(label: int, dice: Dice) -> NDArray[np.uint8]:
    """Images (N, 28, 28) of one class."""
    x, y = _posed(dice)
    garment = DRAWERS[label](x, y, dice) * _cloth(x, y, dice)
    rounded: Field = np.clip(garment, 0, 1) * np.float32(255) + np.float32(0.5)
    return rounded.astype(np.uint8)


def _posed(dice: Dice) -> tuple[Field, Field]:
    """Each pixel's x and y (N, 28, 28) in the garment's own axes: moved, leaning and scaled at random."""
    axis = (np.arange(SIDE, dtype=np.float32) - np.float32((SIDE - 1) / 2)) / np.float32(PIXELS_PER_UNIT)
    right = axis[None, None, :] - dice.between(-0.12, 0.12)
    below = axis[None, :, None] - dice.between(-0.1, 0.1)
    lean = dice.between(-0.1, 0.1)
    x = (right + lean * below) / dice.between(0.8, 1.08)
    y = (below - lean * right) / dice.between(0.85, 1.08)
    return x, y


def _cloth(x: Field, y: Field, dice: Dice) -> Field:
    """The brightness (N, 28, 28) of plain or striped, worn, unevenly lit cloth."""
    across = dice.chance(0.5)
    phase = (x * across + y * (1 - across)) * dice.between(2, 6) + dice.between(0, 1)
    triangle = np.abs(phase - np.floor(phase) - np.float32(0.5)) * 2
    stripes = 1 - dice.chance(0.35) * dice.between(0.2, 0.8) * triangle
    light = 1 + dice.between(-0.3, 0.3) * x + dice.between(-0.25, 0.25) * y
    folds = 1 + dice.between(0, 0.25) * np.repeat(np.repeat(dice.between(-1, 1, 14), 2, axis=1), 2, axis=2)
    grain = 1 + dice.between(0, 0.25) * dice.between(-1, 1, SIDE)
    brightness: Field = dice.between(0.3, 1) * stripes * light * folds * grain
    return brightness
