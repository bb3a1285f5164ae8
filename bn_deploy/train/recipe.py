"""The hyper-parameters of a training, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bn_deploy.errors import InputError


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the book's (d2l.ai, batch normalization, LeNet).

    Attributes:
        epochs: passes over the training images.
        batch: images per step.
        lr: learning rate of plain SGD.
        seed: of the initial weights and of the order of the images.
        statistics_images: how many training images the batch norms' final statistics are taken over;
            ten thousand are enough for their noise not to matter (Wu and Johnson 2021, "Rethinking
            'Batch' in BatchNorm").

    Raises:
        InputError: a value is out of its range.
    """

    epochs: int = 10
    batch: int = 256
    lr: float = 1.0
    seed: int = 0
    statistics_images: int = 10_000

    def __post_init__(self) -> None:
        for name in ("epochs", "statistics_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch < 2:
            raise InputError(f"a training batch needs at least 2 images to have a variance, not {self.batch}")
        if not 0 < self.lr < float("inf"):
            raise InputError(f"lr must be positive and finite, not {self.lr}")

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON object."""
        return asdict(self)
