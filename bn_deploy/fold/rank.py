"""Proof that a batch norm's input has rank 2, where axis 1 is the last axis too."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.batchnorm.flavours import Found, find
from bn_deploy.errors import ModelError
from bn_deploy.fold.trace import Dataflow

_KEEP_RANK: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Identity,
    nn.BatchNorm1d,
    nn.Dropout,
    nn.Sigmoid,
    nn.Tanh,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Hardswish,
    nn.Softplus,
)


def observed_ranks(network: nn.Module, example_inputs: Sequence[Any] | None) -> dict[str, set[int]]:
    """The ranks of each batch norm's inputs, by path, in one forward pass over `example_inputs`.

    Raises:
        ModelError: the forward fails on them.
    """
    ranks: dict[str, set[int]] = {}
    if example_inputs is None:
        return ranks
    probe = copy.deepcopy(network).eval()  # a pass in training mode would move the statistics

    def watch(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            ranks.setdefault(path, set()).update(x.dim() for x in inputs if isinstance(x, Tensor))

        return hook

    for found in find(probe):
        found.module.register_forward_pre_hook(watch(found.path))
    try:
        with torch.no_grad():
            probe(*example_inputs)
    except Exception as error:  # the forward is foreign code
        raise ModelError(f"the network fails on the example inputs: {error}") from error
    return ranks


def has_rank_two(flow: Dataflow, node: fx.Node, found: Found, ranks: dict[str, set[int]]) -> bool:
    """Whether the batch norm called by `node` provably takes (N, C).

    Seen on the example inputs, demanded by the layer itself, or following from the calls before it: what
    comes out of Flatten has rank 2, and linear layers and elementwise ones keep a rank.
    """
    if found.path in ranks:
        return ranks[found.path] == {2}
    if isinstance(found.module, BatchNorm):
        return found.module.rank == 2
    current: Any = node.args[0]
    while isinstance(current, fx.Node):
        layer = flow.module_of(current)
        if isinstance(layer, nn.Flatten):
            return layer.start_dim == 1 and layer.end_dim == -1
        if type(layer) not in _KEEP_RANK and not (isinstance(layer, BatchNorm) and layer.rank == 2):
            return False
        current = current.args[0] if current.args else None
    return False
