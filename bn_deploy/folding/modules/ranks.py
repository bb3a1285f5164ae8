"""Batch norms of (N, C) that would take (N, C, L) as well, where their channels are not what was folded.

A linear layer makes its features the last axis, and a batch norm takes axis 1: the same at rank 2 only. A
network of both takes other ranks too, if the sizes happen to fit, and computes something else there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from bn_deploy.folding.modules.course import Inputs
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.outcome import Refusal


class OneRank(nn.Identity):
    """Hands on what it gets, if that has the rank at which the network was folded.

    Raises:
        ValueError: it has not.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(N, C) to itself."""
        if input.dim() != 2:
            raise ValueError(f"folded for inputs (N, C), not of rank {input.dim()}")
        return input


def guarded(module: nn.Module) -> nn.Module:
    """What stays of a batch norm, with the rank checked if nothing else stays."""
    return OneRank().eval() if type(module) is nn.Identity else module


def takes_other_rank(network: nn.Module, examples: Sequence[Inputs]) -> bool:
    """Whether `network`, which takes (N, F), also runs on (N, C, F)."""
    if len(examples) != 1:
        return False
    args, kwargs = examples[0]
    if not args or not isinstance(args[0], Tensor) or args[0].dim() != 2:
        return False
    for channels in sorted(set(channel_counts(network))):
        deep = args[0].detach().unsqueeze(1).expand(-1, channels, -1)
        try:
            observe(network, ((deep, *args[1:]), kwargs))  # which does not let it write to what it keeps
        except Unrun:
            continue
        except Refusal:
            return True
        return True
    return False


def channel_counts(network: nn.Module) -> Iterator[int]:
    """How many channels the batch norms take."""
    for module in network.modules():
        count = vars(module).get("num_features")
        if isinstance(count, int):
            yield count
