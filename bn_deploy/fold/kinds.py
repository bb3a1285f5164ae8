"""The linear layers that can absorb a batch norm after them (law 2): each row names its axes.

A kind adds one row; flavours of batch norm and soundness checks need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class LinearKind:
    """A linear layer, by its axes.

    Attributes:
        rule: the name of "this layer, then batch norm" in reports.
        types: the exact layer types. A subclass may compute something else and is refused.
        out_axis: where the weight has its output channels.
        channel_axis: where the layer's output has its channels; a batch norm's are axis 1.
        groups: the layer's number of groups.
    """

    rule: str
    types: tuple[type[nn.Module], ...]
    out_axis: int
    channel_axis: int
    groups: Callable[[nn.Module], int]


def _conv_groups(layer: nn.Module) -> int:
    assert isinstance(layer, _ConvNd)  # noqa: S101 - narrows what `types` has checked
    return layer.groups


LINEAR_KINDS: tuple[LinearKind, ...] = (
    LinearKind("conv-bn", (nn.Conv1d, nn.Conv2d, nn.Conv3d), out_axis=0, channel_axis=1, groups=_conv_groups),
    LinearKind(
        "conv-transpose-bn",
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        out_axis=1,
        channel_axis=1,
        groups=_conv_groups,
    ),
    # Its features are the last axis of the output, so the two axes agree only at rank 2: `modules` asks for proof.
    LinearKind("linear-bn", (nn.Linear,), out_axis=0, channel_axis=-1, groups=lambda _: 1),
)


def kind_of(layer: nn.Module) -> LinearKind | None:
    """The row for `layer`, or None if it is no linear layer that is known."""
    return next((kind for kind in LINEAR_KINDS if type(layer) in kind.types), None)
