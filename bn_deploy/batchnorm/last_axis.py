"""torch's batch norm for inputs that have their channels last, which no layer of torch takes."""

from __future__ import annotations

from torch import Tensor, nn


class LastAxisBatchNorm(nn.BatchNorm1d):
    """Batch normalization over the last axis of x (..., C); at rank 2 that is torch's own layer.

    What a hand-written layer with vectors (C,) becomes that broadcasts them: at rank 3 torch's layer would
    take axis 1 instead, silently where both are of one length.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x, (..., C), over all axes but the last."""
        if x.dim() == 2:
            return super().forward(x)
        return super().forward(x.flatten(0, -2)).reshape(x.shape)
