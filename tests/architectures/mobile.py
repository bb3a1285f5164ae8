"""Networks for small devices: MobileNetV3 and ShuffleNet in small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.row import Norm


class _Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): one factor per channel, and no batch norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 4, 1)
        self.excite = nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu())
        return x * nn.functional.hardsigmoid(factors)


class _Inverted(nn.Module):
    def __init__(self, norm: Norm, inputs: int, inner: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if inner != inputs:
            layers += [nn.Conv2d(inputs, inner, 1, bias=False), norm(inner, 4), nn.Hardswish()]
        depthwise = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        layers += [depthwise, norm(inner, 4), _Gate(inner), nn.Hardswish()]
        layers += [nn.Conv2d(inner, outputs, 1, bias=False), norm(outputs, 4)]
        self.layers = nn.Sequential(*layers)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return x + out if self.adds else out


class InvertedResidual(nn.Module):
    """Howard et al. 2019, "Searching for MobileNetV3": thin ends, a depthwise middle, and a gate."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, padding=1, bias=False),
            norm(8, 4),
            nn.Hardswish(),
            _Inverted(norm, 8, 8, 8),
            _Inverted(norm, 8, 16, 12, stride=2),
            _Inverted(norm, 12, 24, 12),
            nn.Conv2d(12, 16, 1, bias=False),
            norm(16, 4),
            nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(16, 16), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel i of `groups` x n goes to place (i % n) x groups + i // n; x is (N, C, H, W)."""
    count, channels, height, width = x.shape
    x = x.view(count, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(count, channels, height, width)


class _Unit(nn.Module):
    """Half of the channels pass unchanged."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            nn.Conv2d(half, half, 1, bias=False),
            norm(half, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            norm(half, 4),
            nn.Conv2d(half, half, 1, bias=False),
            norm(half, 4),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        passed, computed = x.chunk(2, dim=1)
        return shuffled(torch.cat((passed, self.branch(computed)), dim=1), 2)


class _Down(nn.Module):
    """Both branches compute; one batch norm normalizes what they have become together."""

    def __init__(self, norm: Norm, channels: int) -> None:
        super().__init__()
        self.left = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels, bias=False),
            norm(channels, 4),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.right = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            norm(channels, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 2, padding=1, groups=channels, bias=False),
            norm(channels, 4),
            nn.Conv2d(channels, channels, 1, bias=False),
        )
        self.bn = norm(2 * channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((self.left(x), self.right(x)), dim=1)
        return self.bn(shuffled(both, 2)).relu()  # type: ignore[no-any-return]


class Shuffle(nn.Module):
    """Ma et al. 2018, "ShuffleNet V2": split, compute on one half, concatenate, shuffle."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, padding=1, bias=False), norm(8, 4), nn.ReLU())
        self.stage = nn.Sequential(_Unit(norm, 8), _Down(norm, 8), _Unit(norm, 16))
        self.last = nn.Sequential(nn.Conv2d(16, 16, 1, groups=4), nn.ChannelShuffle(4), norm(16, 4))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stage(self.stem(x))).relu()
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]
