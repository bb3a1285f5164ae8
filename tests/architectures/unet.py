"""U-net in small: down by pooling, up by transposed convolution and by interpolation, skips concatenated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.architectures.row import Norm


class _Double(nn.Module):
    def __init__(self, norm: Norm, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            norm(outputs, 4),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, padding_mode="replicate"),
            norm(outputs, 4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def _joined(skip: Tensor, risen: Tensor) -> Tensor:
    """Side by side, `risen` padded to the size of `skip` where that is odd."""
    if risen.shape[2:] != skip.shape[2:]:
        rows, columns = skip.shape[2] - risen.shape[2], skip.shape[3] - risen.shape[3]
        risen = F.pad(risen, (0, columns, 0, rows))
    return torch.cat([skip, risen], 1)


class UNet(nn.Module):
    """Ronneberger et al. 2015, with a batch norm behind every convolution and behind both joints."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.down1 = _Double(norm, 1, 4)
        self.down2 = _Double(norm, 4, 8)
        self.bottom = _Double(norm, 8, 8)
        self.up2 = nn.ConvTranspose2d(8, 8, 3, 2, padding=1, output_padding=1)
        self.bn_up2 = norm(8, 4)
        self.bn_join2 = norm(16, 4)
        self.fuse2 = nn.Sequential(nn.Conv2d(16, 8, 1), norm(8, 4), nn.ReLU())
        self.up1 = nn.Conv2d(8, 4, 1)
        self.bn_up1 = norm(4, 4)
        self.bn_join1 = norm(8, 4)
        self.fuse1 = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), norm(4, 4), nn.ReLU())
        self.head = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        bottom = self.bottom(F.max_pool2d(second, 2))
        risen = F.relu(self.bn_up2(self.up2(bottom)))
        x = self.fuse2(self.bn_join2(_joined(second, risen)))
        x = F.interpolate(self.up1(x), scale_factor=2, mode="bilinear", align_corners=False)
        x = self.fuse1(self.bn_join1(_joined(first, F.relu(self.bn_up1(x)))))
        return self.head(x)  # type: ignore[no-any-return]
