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
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, not {self.epochs}")
        for name in ("batch", "statistics_images"):
            if getattr(self, name) < 2:
                raise InputError(f"{name} must be at least 2 to have a variance, not {getattr(self, name)}")
        if not 0 < self.lr < 3e38:  # it multiplies float32
            raise InputError(f"lr must be positive and finite in float32, not {self.lr}")
        if not 0 <= self.seed < 1 << 63:
            raise InputError(f"seed must be at least 0 and below 2 to the power 63, not {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """The recipe as a JSON object."""
        return asdict(self)
