"""Networks without images: one over time, one over a row of numbers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.row import Norm


class _Causal(nn.Module):
    """Pads both ends and crops the later one: an output sees no later input (Bai et al. 2018, "TCN")."""

    def __init__(self, norm: Norm, channels: int, dilation: int) -> None:
        super().__init__()
        self.ahead = 2 * dilation
        self.conv = nn.Conv1d(channels, channels, 3, padding=self.ahead, dilation=dilation)
        self.bn = norm(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.bn(self.conv(x)[:, :, : -self.ahead]))


class OneD(nn.Module):
    """Features over time: (N, 6, 33) -> (N, 10)."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.bn_in = norm(6, 3)
        self.conv = nn.Conv1d(6, 8, 5, stride=2)
        self.bn = norm(8, 3)
        self.causal = nn.Sequential(_Causal(norm, 8, 1), _Causal(norm, 8, 2))
        self.separable = nn.Sequential(
            nn.Conv1d(8, 8, 3, padding="same", groups=8),
            norm(8, 3),
            nn.ReLU(),
            nn.Conv1d(8, 8, 1),
            norm(8, 3),
        )
        self.mix_features = nn.Linear(8, 8)
        self.bn_features = norm(8, 3)
        self.mix_time = nn.Linear(15, 12)
        self.bn_time = norm(8, 3)
        self.coarse = nn.Conv1d(8, 8, 3)
        self.bn_coarse = norm(8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 3:
            raise ValueError(f"features over time have three axes, not {x.dim()}")
        x = self.causal(F.relu(self.bn(self.conv(self.bn_in(x)))))
        x = F.relu(x + self.separable(x))
        x = F.relu(self.bn_features(self.mix_features(x.transpose(1, 2)).transpose(1, 2)))
        x = F.relu(self.bn_time(self.mix_time(x)))
        x = F.relu(self.bn_coarse(F.max_pool1d(self.coarse(x), 2)))
        return self.head(F.adaptive_avg_pool1d(x, 1).squeeze(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """A row of numbers through linear layers: (N, 12) -> (N, 10)."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.bn_in = norm(12, 2)
        self.first = nn.Sequential(nn.Linear(12, 16), norm(16, 2), nn.ReLU())
        self.second = nn.Sequential(nn.Linear(16, 16, bias=False), nn.ReLU(), norm(16, 2), nn.Dropout(0.5))
        self.third = nn.Linear(16, 16)
        self.bn_inner = norm(16, 2)
        self.inner = nn.Linear(16, 16)
        self.bn_between = norm(16, 2)
        self.layer_norm = nn.LayerNorm(16)
        self.head = nn.Sequential(nn.Linear(16, 10), norm(10, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.third(self.second(self.first(self.bn_in(x))))
        x = F.gelu(x + self.inner(F.relu(self.bn_inner(x))))
        x = self.layer_norm(self.bn_between(x).sigmoid())
        return self.head(x)  # type: ignore[no-any-return]
