"""What any batch norm knows in eval mode, and the only place where its formula is evaluated. numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_deploy.batchnorm.affine import Affine, Vector


@dataclass(frozen=True, eq=False)
class BatchNormParams:
    """The parameters of a batch norm over C channels, in float64 and under PyTorch's names.

    y = weight * (x - running_mean) / sqrt(running_var + eps) + bias, per channel
    (Ioffe and Szegedy 2015, algorithm 2). In the paper's letters these are gamma, mu, sigma^2, epsilon and
    beta; in ONNX scale, input_mean, input_var, epsilon and B.

    Attributes:
        weight, bias, running_mean, running_var: (C,).
        eps: what keeps the root away from zero.

    Raises:
        ValueError: with the reason why these numbers define no usable map; the text is fit for a report.
    """

    weight: Vector
    bias: Vector
    running_mean: Vector
    running_var: Vector
    eps: float

    def __post_init__(self) -> None:
        sizes = set()
        for name in ("weight", "bias", "running_mean", "running_var"):
            vector = np.asarray(getattr(self, name), dtype=np.float64).reshape(-1)
            if not np.isfinite(vector).all():
                raise ValueError(f"{name} is not finite in {int((~np.isfinite(vector)).sum())} channel(s)")
            object.__setattr__(self, name, vector)
            sizes.add(vector.size)
        if len(sizes) != 1:
            raise ValueError(f"its parameters disagree about the number of channels: {sorted(sizes)}")
        if not np.isfinite(self.eps):
            raise ValueError(f"eps is {self.eps}")
        worst = float(np.min(self.running_var)) + self.eps
        if worst <= 0:
            raise ValueError(f"running_var + eps is {worst:g} in some channel, which has no root")

    @property
    def channels(self) -> int:
        """C, the number of channels."""
        return int(self.weight.size)

    def affine(self) -> Affine:
        """The map that the batch norm is in eval mode (law 1)."""
        scale = self.weight / np.sqrt(self.running_var + self.eps)
        return Affine(scale, self.bias - self.running_mean * scale)
