"""The one crossing from torch's parameters to the float64 vectors that the algebra works on."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from bn_deploy.batchnorm.affine import Vector


def to_vector(tensor: Tensor) -> Vector:
    """A float64 copy of `tensor`, flattened: (C,) from (C,), (1, C) or (1, C, 1, 1)."""
    vector: Vector = tensor.detach().double().cpu().numpy().reshape(-1).astype(np.float64, copy=True)
    return vector
