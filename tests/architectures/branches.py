"""Networks of parallel branches: octave convolution with Inception blocks, and RepVGG."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.row import Norm


class _Octave(nn.Module):
    """Two resolutions, each fed by both (Chen et al. 2019, "Drop an Octave")."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.high_to_high = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.high_to_low = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.low_to_high = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.low_to_low = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn_high = norm(channels, 4)
        self.bn_low = norm(channels, 4)

    def forward(self, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        risen = F.interpolate(self.low_to_high(low), scale_factor=2, mode="nearest")
        new_high = self.high_to_high(high) + risen
        new_low = self.low_to_low(low) + self.high_to_low(F.avg_pool2d(high, 2))
        return F.relu(self.bn_high(new_high)), F.relu(self.bn_low(new_low))


class _Inception(nn.Module):
    """Branches of several sizes, concatenated and normalized together (Szegedy et al. 2015)."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.small = nn.Conv2d(channels, 4, 1)
        self.large = nn.Sequential(
            nn.Conv2d(channels, 4, 1, bias=False),
            norm(4, 4),
            nn.ReLU(),
            nn.Conv2d(4, 8, 5, padding=2),
        )
        self.pooled = nn.Sequential(
            nn.Conv2d(channels, 4, 1), nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)
        )
        self.bn = norm(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat([self.small(x), self.large(x), self.pooled(x)], 1)))


class _Reduction(nn.Module):
    """One branch only pools: its part of the batch norm has nowhere to go."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2, padding=1)
        self.bn = norm(channels + 8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(torch.cat([self.conv(x), F.max_pool2d(x, 3, 2, padding=1)], 1)))


class Octave(nn.Module):
    """An octave stage and two Inception blocks."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.high = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8, 4), nn.ReLU())
        self.low = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8, 4), nn.ReLU()
        )
        self.octave = _Octave(norm, 8)
        self.to_high = nn.Conv2d(8, 8, 1, bias=False)
        self.from_low = nn.Conv2d(8, 8, 1, bias=False)
        self.bn = norm(8, 4)
        self.inception = _Inception(norm, 8)
        self.reduction = _Reduction(norm, 16)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.octave(self.high(x), self.low(x))
        risen = F.interpolate(self.from_low(low), scale_factor=2, mode="nearest")
        x = F.relu(self.bn(self.to_high(high) + risen))
        x = self.reduction(self.inception(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class _Rep(nn.Module):
    def __init__(self, norm: Norm, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.large = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), norm(outputs, 4)
        )
        self.small = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs, 4))
        self.identity = norm(inputs, 4) if stride == 1 and inputs == outputs else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.large(x) + self.small(x)
        if self.identity is not None:
            out = out + self.identity(x)
        return F.relu(out)


class RepVgg(nn.Module):
    """Ding et al. 2021, "RepVGG": three parallel branches, of which one is a bare batch norm."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            _Rep(norm, 3, 8, 2), _Rep(norm, 8, 8), _Rep(norm, 8, 16, 2), _Rep(norm, 16, 16)
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))  # type: ignore[no-any-return]
