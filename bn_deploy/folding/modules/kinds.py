"""The linear layers that can absorb a batch norm after them (law 2): each row names its axes.

A kind adds one row; flavours of batch norm and soundness checks need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True)
class LinearKind:
    """A linear layer, by its axes.

    Attributes:
        rule: the name of "this layer, then batch norm" in reports.
        types: the exact layer types. A subclass may compute something else and is refused.
        out_axis: where the weight has its output channels.
        any_rank: whether it also takes inputs of other ranks, where its output's channels are not axis 1.
        groups: the layer's number of groups.
    """

    rule: str
    types: tuple[type[nn.Module], ...]
    out_axis: int
    any_rank: bool
    groups: Callable[[nn.Module], int]


def _conv_groups(layer: nn.Module) -> int:
    assert isinstance(layer, _ConvNd)  # noqa: S101 - narrows what `types` has checked
    return layer.groups


LINEAR_KINDS: tuple[LinearKind, ...] = (
    LinearKind("conv-bn", (nn.Conv1d, nn.Conv2d, nn.Conv3d), out_axis=0, any_rank=False, groups=_conv_groups),
    LinearKind(
        "conv-transpose-bn",
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        out_axis=1,
        any_rank=False,
        groups=_conv_groups,
    ),
    # Its features are the last axis of the output, which is axis 1 only at rank 2: `rank` asks for proof.
    LinearKind("linear-bn", (nn.Linear,), out_axis=0, any_rank=True, groups=lambda _: 1),
)


def output_rank(layer: nn.Module) -> int:
    """The rank of the layer's output (N, C, ...), which for every kind in the table is that of its weight."""
    assert isinstance(layer.weight, Tensor)  # noqa: S101 - every kind in the table has one
    return layer.weight.dim()


def kind_of(layer: nn.Module) -> LinearKind | None:
    """The row for `layer`, or None if it is no linear layer that is known."""
    return next((kind for kind in LINEAR_KINDS if type(layer) in kind.types), None)
