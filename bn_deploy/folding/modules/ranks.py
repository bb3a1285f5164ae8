"""Batch norms that would take inputs of another rank as well, where their channels are not what was folded.

A linear layer makes its features the last axis, a convolution of an image without batch its first, and a
batch norm takes axis 1. Where a layer takes several ranks, the sizes may happen to fit, and it computes
something else there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.batchnorm.last_axis import LastAxisBatchNorm
from bn_deploy.folding.modules.course import Course, Inputs
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.outcome import Refusal

NOTE = "at other ranks of its input than were seen the folded network raises a ValueError"


class FoldedRanks(nn.Identity):
    """Hands on what it gets, if that has a rank at which the network was folded.

    Args:
        ranks: these.
        rest: what else stays of the batch norm, if anything does.

    Raises:
        ValueError: it has not.
    """

    def __init__(self, ranks: Sequence[int], rest: nn.Module | None) -> None:
        super().__init__()
        self.ranks = tuple(ranks)
        self.rest = rest

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """(N, C, ...), of one of the ranks, to the same shape."""
        if input.dim() not in self.ranks:
            seen = " and ".join(map(str, self.ranks))
            raise ValueError(f"folded for inputs of rank {seen}, not of rank {input.dim()}")
        return input if self.rest is None else self.rest(input)


def doubtful(network: nn.Module, courses: Sequence[Course], paths: Sequence[str]) -> dict[str, list[int]]:
    """The ranks at which batch norms were seen, for those that would take others.

    Args:
        network: before it is folded.
        courses: what was seen of it.
        paths: the batch norms.
    """
    found = {}
    layers = dict(network.named_modules())
    ranks: dict[str, set[int]] = {path: set() for path in paths}
    for call in (call for course in courses for call in course.calls if call.path in ranks and call.inputs):
        ranks[call.path].add(len(call.inputs[0].shape))
    for path, seen in ranks.items():
        layer = layers.get(path)
        if not isinstance(layer, LastAxisBatchNorm) and any(_takes(layer, rank) for rank in {2, 3} - seen):
            found[path] = sorted(seen)
    return found


def _takes(layer: nn.Module | None, rank: int) -> bool:
    """Whether a batch norm does not refuse a rank."""
    check = getattr(layer, "_check_input_dim", None)
    try:
        return check is None or check(torch.empty([1] * rank, device="meta")) is None
    except ValueError:
        return False


def runs_at_other_ranks(folded: nn.Module, examples: Sequence[Inputs], channels: Sequence[int]) -> bool:
    """Whether a folded network runs on inputs with an axis more, or one less.

    Args:
        folded: in which no batch norm refuses an input any more.
        examples: inputs that it takes.
        channels: sizes of the additional axis: the numbers of channels.
    """
    for inputs in (other for example in examples for other in _of_other_ranks(example, channels)):
        try:
            observe(folded, inputs)  # which does not let it write to what it keeps
        except Unrun:
            continue
        except Refusal:
            return True
        return True
    return False


def _of_other_ranks(inputs: Inputs, channels: Sequence[int]) -> Iterator[Inputs]:
    ranks = [leaf.dim() for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not ranks or ranks[0] < 1:
        return

    def changed(change: Callable[[Tensor], Tensor]) -> Inputs:
        found: Inputs = pytree.tree_map_only(
            Tensor, lambda t: change(t.detach()) if t.dim() == ranks[0] else t, inputs
        )
        return found

    yield changed(lambda t: t[0])
    for count in channels:
        yield changed(lambda t: torch.stack([t] * count, 1))  # noqa: B023 - it is called before the next


def channel_counts(network: nn.Module) -> list[int]:
    """How many channels the batch norms take."""
    counts = (vars(module).get("num_features") for module in network.modules())
    return sorted({count for count in counts if isinstance(count, int)})
