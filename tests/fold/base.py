"""A network that folds, for tests that change one thing in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.batchnorm.layers import random_input
from tests.fold.checking import hard


class Base(nn.Module):
    """Folds; `forward` may be given."""

    def __init__(self, forward: Callable[[Any, Tensor], Any] | None = None, **parts: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn: nn.Module = nn.BatchNorm2d(3)
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("total", torch.zeros(()))
        self.course = forward
        self.calls = 0
        self.last: Any = None
        hard(self)

    def forward(self, x: Tensor) -> Any:
        return self.bn(self.conv(x)) if self.course is None else self.course(self, x)


X = random_input(2, 3, 5, 3)  # as wide as there are channels, so that mistaken axes go unnoticed
