"""A network's dataflow, as far as symbolic tracing sees it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import fx, nn

from bn_deploy.batchnorm.flavours import find
from bn_deploy.fold.outcome import Refusal


class _Tracer(fx.Tracer):
    """Keeps batch norms whole, whoever wrote them; the default tracer would look through a custom one."""

    def __init__(self, batchnorms: set[int]) -> None:
        super().__init__()
        # Collected before tracing, which shows a module's parameters as symbols that no flavour recognises.
        self.batchnorms = batchnorms

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.batchnorms or super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True)
class Dataflow:
    """Which calls feed which: the graph of one forward pass of `network`, in eval mode.

    Attributes:
        network: what was traced.
        graph: its calls; rewritten while batch norms are folded.
        used_directly: the parameters that the forward uses itself, outside their layer's call.
    """

    network: nn.Module
    graph: fx.Graph
    used_directly: tuple[object, ...]

    def calls(self, module: nn.Module) -> list[fx.Node]:
        """The calls of `module`, under whichever of its paths."""
        return [
            node
            for node in self.graph.nodes
            if node.op == "call_module" and self.network.get_submodule(str(node.target)) is module
        ]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that `node` calls, or None if it does something else."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None


def trace(network: nn.Module) -> Dataflow:
    """Follows a symbolic input through `network`.

    Raises:
        Refusal: the forward's course depends on data, or it computes tensors while it is traced; the text
            is the reason for every batch norm in it.
    """
    # On a copy and without grad: a forward may write to attributes of its module, the textbook's layer does.
    probe = copy.deepcopy(network)
    try:
        with torch.no_grad():
            graph = _Tracer({id(found.module) for found in find(probe)}).trace(probe)
    except Exception as error:  # noqa: BLE001 - the forward is foreign code: whatever it raises is the reason
        first_line = (str(error).splitlines() or [""])[0]
        raise Refusal(f"the forward cannot be traced symbolically ({type(error).__name__}: {first_line})") from error
    used = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    if any(name.startswith("_tensor_constant") for name in used):
        # Such a tensor may hold anything, a function of the very weights that folding changes included.
        raise Refusal("the forward makes tensors of its own while it is traced, so their origin is unknown")
    return Dataflow(network, graph, tuple(_attribute(network, name) for name in used))


def _attribute(network: nn.Module, path: str) -> object:
    """What hangs at a dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(network.get_submodule(owner), name)


def course(network: nn.Module) -> list[tuple[str, ...]]:
    """The calls of one forward pass with everything that is fixed in them, comparable between networks.

    Raises:
        Refusal: as `trace`.
    """
    return [(n.op, str(n.target), repr(n.args), repr(n.kwargs)) for n in trace(network).graph.nodes]
