"""How two streams of logits differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_deploy.backends.base import Array


@dataclass
class Difference:
    """Largest and mean-square difference of two streams of logits, with the image that is worst.

    Logits that are not finite are infinitely far from everything and name no class.
    """

    largest: float = 0.0
    worst_image: int = 0
    square: float = 0.0
    count: int = 0
    agree: int = 0

    def add(self, reference: Array, candidate: Array, first_image: int) -> None:
        """Takes in two batches (n, classes) of the images from `first_image` on."""
        with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is dealt with here
            difference = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
            difference[~np.isfinite(difference)] = np.inf
            self.square += float(np.square(difference).sum())
        per_image = difference.max(axis=1)
        if per_image.max() > self.largest:
            self.largest = float(per_image.max())
            self.worst_image = first_image + int(per_image.argmax())
        self.count += difference.size
        same = reference.argmax(axis=1) == candidate.argmax(axis=1)
        self.agree += int((same & np.isfinite(per_image)).sum())

    @property
    def rms(self) -> float:
        """The root-mean-square difference of a logit."""
        return float(np.sqrt(self.square / self.count)) if self.count else 0.0
