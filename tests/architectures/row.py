"""What the table of architectures says of each, and how their batch norms are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

Norm = Callable[[int, int], nn.Module]
"""(channels, rank of the input) -> a batch norm."""


@dataclass(frozen=True)
class Architecture:
    """One network, and what can be proved of its batch norms by hand.

    Attributes:
        make: builds it with the batch norms that it is given.
        shape: of one input, without the batch axis.
        batchnorms: how many batch norms it has.
        kept: the paths of those that cannot be folded, each with the reason. The numbers are those of
            `numbers`: in every batch norm one scale is zero and one negative.
    """

    make: Callable[[Norm], nn.Module]
    shape: tuple[int, ...]
    batchnorms: int
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def foldable(self) -> int:
        """How many batch norms can be folded."""
        return self.batchnorms - len(self.kept)
