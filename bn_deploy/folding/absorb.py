"""The laws of folding, on plain arrays: float64 in, float64 out, no framework.

An absent bias is zeros before a law is applied, so no law knows of the case.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bn_deploy.batchnorm.affine import Affine, Vector

Weights = NDArray[np.float64]


def absorb_after(
    weight: Weights, bias: Vector, affine: Affine, *, out_axis: int = 0, groups: int = 1
) -> tuple[Weights, Vector]:
    """Law 2: a linear operator followed by an affine map is the same operator with new weights.

    s * (W x + b) + t = (s W) x + (s b + t), channel by channel.

    Args:
        weight: (out, in / groups, ...) for `out_axis` 0, as of convolutions and linear layers, or
            (in, out / groups, ...) for `out_axis` 1, as of transposed convolutions.
        bias: (out,).
        affine: the map over the `out` channels.
        out_axis: where `weight` has its output channels.
        groups: how many groups the channels fall into; with `out_axis` 0 it does not matter.

    Returns:
        The new weight and bias, in the shapes of the old.

    Raises:
        ValueError: the number of channels differs.
    """
    channels = weight.shape[0] if out_axis == 0 else weight.shape[1] * groups
    if not channels == affine.channels == bias.size:
        raise ValueError(f"it has {affine.channels} channels, the layer before it {channels}")
    shift = affine.scale * bias + affine.shift
    if out_axis == 0:
        return weight * affine.scale.reshape(-1, *[1] * (weight.ndim - 1)), shift
    # Group g of the inputs, rows g * in/groups onwards, feeds output channels g * out/groups onwards.
    by_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    scale = affine.scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (by_group * scale).reshape(weight.shape), shift


def absorb_before(
    weight: Weights, bias: Vector, affine: Affine, *, in_axis: int = 1, groups: int = 1
) -> tuple[Weights, Vector]:
    """Law 3: an affine map followed by a linear operator is the same operator with new weights.

    W (s * x + t) + b = (W s) x + (b + W t), where W t adds up over every input that an output sees. So each
    output must see a whole kernel of inputs, none of them padding, unless every shift is zero. The outputs
    of a transposed convolution see parts of the kernel: for them every shift has to be zero.

    Args:
        weight: (out, in / groups, ...) for `in_axis` 1, as of convolutions and linear layers, or
            (in, out / groups, ...) for `in_axis` 0, as of transposed convolutions and plain matrices.
        bias: (out,).
        affine: the map over the `in` channels.
        in_axis: where `weight` has its input channels.
        groups: how many groups the channels fall into.

    Returns:
        The new weight and bias, in the shapes of the old.

    Raises:
        ValueError: the number of channels differs.
    """
    channels = weight.shape[0] if in_axis == 0 else weight.shape[1] * groups
    if channels != affine.channels:
        raise ValueError(f"it has {affine.channels} channels, the layer after it takes {channels}")
    # Group g of the outputs is fed by input channels g * in/groups onwards.
    by_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    one = [1] * (weight.ndim - 2)
    shape = (groups, -1, 1, *one) if in_axis == 0 else (groups, 1, -1, *one)
    seen = (by_group * affine.shift.reshape(shape)).sum(axis=(1 + in_axis, *range(3, by_group.ndim)))
    return (by_group * affine.scale.reshape(shape)).reshape(weight.shape), bias + seen.reshape(-1)
