"""What a data set is once it is loaded: two splits in memory, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import DataError

GARMENTS = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
"""The class names of Fashion-MNIST by label; the synthetic set draws the same ten."""


class AbsentError(DataError):
    """A data set that cannot be had here although nothing is damaged: `auto` then takes another.

    Attributes:
        reason: why, without the advice that the message ends with.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, whole in memory: no work is left to do for each image.

    Attributes:
        images: float32 (N, 1, 28, 28), C-contiguous, in [0, 1].
        labels: int64 (N,), indices into the data set's classes.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
        """Makes a split of stored bytes; the only place where brightness becomes [0, 1].

        Args:
            images: (N, 28, 28).
            labels: (N,).

        Raises:
            DataError: there are not as many labels as images, or a label that names no garment.
        """
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images come with {len(labels)} labels")
        if labels.size and int(labels.max()) >= len(GARMENTS):
            raise DataError(f"label {labels.max()} is none of the {len(GARMENTS)} classes")
        scaled = images[:, None].astype(np.float32, order="C")
        scaled /= 255  # in place: ten times as fast as a division that also converts
        return cls(scaled, labels.astype(np.int64))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with its provenance.

    Attributes:
        name: the row of DATASETS it belongs to.
        classes: the name of each label.
        train: what a network learns from.
        test: what it is judged by.
        digest: a SHA-256 that identifies the content.
        licence: the terms it comes under.
        notice: empty, or one sentence that a person must see: why this set stands in for another.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    digest: str
    licence: str
    notice: str = ""
