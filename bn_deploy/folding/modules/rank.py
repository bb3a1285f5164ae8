"""Proof that a layer's output channels are axis 1, where a batch norm has its own: a matter of ranks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.batchnorm.flavours import Found, find
from bn_deploy.batchnorm.foreign import copied, first_line
from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.kinds import LinearKind, output_rank
from bn_deploy.folding.modules.trace import Dataflow
from bn_deploy.folding.outcome import Refusal

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


@dataclass(frozen=True)
class Observation:
    """What one forward pass on example inputs showed.

    Attributes:
        calls: the paths of the watched modules, in the order of their calls.
        ranks: the ranks of each batch norm's inputs, by path.
    """

    calls: list[str] = field(default_factory=list)
    ranks: dict[str, set[int]] = field(default_factory=dict)


def observe(flow: Dataflow, example_inputs: Sequence[Any]) -> Observation:
    """Runs a copy of the network once on a copy of `example_inputs`, the positional arguments of its forward.

    Raises:
        Refusal: the modules that it calls are not those that tracing saw.
        ModelError: the forward fails on the inputs, or they are not a sequence of arguments.
    """
    if isinstance(example_inputs, Tensor):
        raise ModelError("example_inputs is a sequence of arguments: for a single tensor x pass (x,)")
    network = copied(flow.network).eval()  # a pass in training mode would move the statistics
    seen = Observation()

    def watch(path: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            seen.calls.append(path)
            given = (*inputs, *named.values())
            seen.ranks.setdefault(path, set()).update(x.dim() for x in given if isinstance(x, Tensor))

        return hook

    traced = [str(node.target) for node in flow.graph.nodes if node.op == "call_module"]
    for path in sorted({*traced, *(found.path for found in find(network))}):
        network.get_submodule(path).register_forward_pre_hook(watch(path), with_kwargs=True)
    try:
        with torch.no_grad():
            network(*copy.deepcopy(list(example_inputs)))
    except Exception as error:  # the forward is foreign code
        raise ModelError(f"the network fails on the example inputs: {first_line(error)}") from error
    if seen.calls != traced:
        raise Refusal("on the example inputs the forward calls other modules than when it is traced")
    return seen


def check_rank(
    flow: Dataflow, node: fx.Node, found: Found, kind: LinearKind, observed: Observation | None
) -> None:
    """Rules out that the batch norm has its channels on another axis than the layer called by `node`.

    Inputs are taken to have a batch axis, as the definition of batch norm has it. So the rank of what a
    convolution gives is known. That of what a linear layer gives is known if it was seen, if the batch norm
    takes no other, or from the calls before it.

    Raises:
        Refusal: the ranks disagree, or nothing proves that they agree.
    """
    layer = flow.module_of(node)
    assert layer is not None  # noqa: S101 - the caller looked at its kind
    rank, takes = output_rank(layer), found.flavour.ranks(found.module)
    if rank not in takes:
        ranks = " or ".join(str(r) for r in takes)
        raise Refusal(
            f"its channels are axis 1 of rank {ranks}, those of the layer before it axis 1 of rank {rank}"
        )
    if observed is not None:
        if (seen := observed.ranks.get(found.path)) != {rank}:
            raise Refusal(
                f"its channels are those of the layer before it at rank {rank}, but on the example inputs it "
                f"takes rank {' and '.join(map(str, sorted(seen or ())))}"
            )
    elif kind.any_rank and takes != (rank,) and not _follows_rank_two(flow, node):
        raise Refusal(
            "it is not proved that its input has rank 2, where the layer's features are the batch norm's "
            "channels; pass example_inputs"
        )


def _follows_rank_two(flow: Dataflow, node: fx.Node) -> bool:
    """Whether the output of `node` has rank 2 because of the calls before it.

    What comes out of Flatten or of the textbook's layer for (N, C) has rank 2; linear layers and elementwise
    ones keep a rank.
    """
    current: Any = node
    while isinstance(current, fx.Node):
        layer = flow.module_of(current)
        if type(layer) is nn.Flatten:
            return (layer.start_dim, layer.end_dim) == (1, -1)
        if isinstance(layer, BatchNorm) and layer.rank == 2:
            return True
        if layer is None and current.target in ("flatten", torch.flatten):
            return (*current.args[1:], *current.kwargs.values()) == (1,)
        if type(layer) not in _KEEP_RANK or len(current.args) != 1:
            return False
        current = current.args[0]
    return False
