"""Networks whose blocks add to, or append to, what came before: ResNet, ResNet v2 and DenseNet in small."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.row import Norm


class _Basic(nn.Module):
    def __init__(self, norm: Norm, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = norm(outputs, 4)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = norm(outputs, 4)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs, 4))

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.down is None else self.down(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + skip)


class _Bottleneck(nn.Module):
    def __init__(self, norm: Norm, channels: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            norm(inner, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, padding=1, groups=2, bias=False),
            norm(inner, 4),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, channels, 1, bias=False),
            norm(channels, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        out += x
        return F.relu(out)


class Residual(nn.Module):
    """He et al. 2016, "Deep Residual Learning": every batch norm follows its own convolution."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = norm(8, 4)
        self.pool = nn.MaxPool2d(2)
        self.blocks = nn.Sequential(_Basic(norm, 8, 8), _Basic(norm, 8, 16, 2), _Bottleneck(norm, 16, 8))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(F.relu(self.bn(self.stem(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))  # type: ignore[no-any-return]


class _PreActivated(nn.Module):
    """With a projection, the skip starts behind the first batch norm, else before it."""

    def __init__(self, norm: Norm, inputs: int, outputs: int, *, stride: int = 1, projects: bool) -> None:
        super().__init__()
        self.bn1 = norm(inputs, 4)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = norm(outputs, 4)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        skip = x if self.project is None else self.project(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + skip


class PreActivation(nn.Module):
    """He et al. 2016, "Identity Mappings": batch norm and ReLU come before the convolution."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a = _PreActivated(norm, 8, 8, projects=True)
        self.b = _PreActivated(norm, 8, 8, projects=False)
        self.c = _PreActivated(norm, 8, 16, stride=2, projects=True)
        self.bn = norm(16, 4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.c(self.b(self.a(self.stem(x))))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class _DenseLayer(nn.Module):
    def __init__(self, norm: Norm, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn1 = norm(inputs, 4)
        self.conv1 = nn.Conv2d(inputs, 2 * growth, 1, bias=False)
        self.bn2 = norm(2 * growth, 4)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.bn1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.bn2(x)))  # type: ignore[no-any-return]


class _DenseBlock(nn.Module):
    def __init__(self, norm: Norm, inputs: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_DenseLayer(norm, inputs + i * growth, growth) for i in range(2))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Dense(nn.Module):
    """Huang et al. 2017, "Densely Connected Convolutional Networks": each layer reads all before it."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), norm(8, 4), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
        )
        self.block1 = _DenseBlock(norm, 8, 4)
        self.transition = nn.Sequential(
            norm(16, 4), nn.ReLU(), nn.Conv2d(16, 8, 1, bias=False), nn.AvgPool2d(2)
        )
        self.block2 = _DenseBlock(norm, 8, 4)
        self.bn = norm(16, 4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block2(self.transition(self.block1(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(F.relu(self.bn(x)), 1).flatten(1))  # type: ignore[no-any-return]
