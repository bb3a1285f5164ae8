"""A network's dataflow, as far as symbolic tracing sees it; where it may not see all, a refusal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.flavours import find
from bn_deploy.batchnorm.foreign import added_code, copied, first_line
from bn_deploy.folding.outcome import Refusal


class _Symbol(fx.Proxy):
    """Stands for a tensor while a forward is traced, and owns up to it.

    To `isinstance(x, Tensor)` a plain proxy answers no, and the forward goes where no real tensor goes.
    """

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """What isinstance() asks once an object's type is not the one in question."""
        asking = sys._getframe(1)
        module = str(asking.f_globals.get("__name__"))
        known = module == __name__ or module.partition(".")[0] == "torch"
        if not known or asking.f_code is torch.is_tensor.__code__:
            raise fx.proxy.TraceError("the forward asks for the type of a value")
        return type(self)


class _Tracer(fx.Tracer):
    """Keeps batch norms whole, whoever wrote them; the default tracer would look through a custom one.

    Args:
        batchnorms: the ids of the batch norms, collected before tracing, which shows a module's parameters as
            symbols that no flavour recognises.
        defaults: whether optional arguments are left at their defaults; otherwise all are symbols.
    """

    def __init__(self, batchnorms: set[int], *, defaults: bool) -> None:
        super().__init__()
        self.batchnorms = batchnorms
        self.defaults = defaults

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return id(m) in self.batchnorms or super().is_leaf_module(m, module_qualified_name)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Symbol(node, self)

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        if self.defaults:
            args = [_default(a.node) if type(a) is _Symbol and a.node.args else a for a in args]
        return function, args


def _default(placeholder: fx.Node) -> Any:
    """The default of an optional argument, which is the one argument of its node."""
    return placeholder.args[0]


@dataclass(frozen=True)
class Dataflow:
    """Which calls feed which: the graph of one forward pass of `network`, in the mode that it is in.

    Attributes:
        network: what was traced.
        graph: its calls; rewritten while batch norms are folded.
        used_directly: the parameters that the forward uses itself, outside their layer's call.
        hidden: the ids of the modules that may also be called where tracing does not look: inside a layer
            that is called as a whole.
    """

    network: nn.Module
    graph: fx.Graph
    used_directly: tuple[object, ...]
    hidden: frozenset[int]

    def calls(self, module: nn.Module) -> list[fx.Node]:
        """The calls of `module`, under whichever of its paths."""
        return [node for node in self.graph.nodes if self.module_of(node) is module]

    def module_of(self, node: fx.Node) -> nn.Module | None:
        """The module that `node` calls, or None if it does something else."""
        return self.network.get_submodule(str(node.target)) if node.op == "call_module" else None

    def course(self) -> list[tuple[str, ...]]:
        """The calls with everything that is fixed in them, comparable between networks.

        A use of an optional argument counts as one of its default.
        """

        def shown(value: Any) -> str:
            return repr(fx.map_arg(value, lambda n: _default(n) if n.op == "placeholder" and n.args else n))

        return [(n.op, str(n.target), shown(n.args), shown(n.kwargs)) for n in self.graph.nodes]


def trace(network: nn.Module) -> Dataflow:
    """Follows a symbolic input through `network`.

    Raises:
        Refusal: the course of the forward is not the same for all inputs, or not all of it is seen; the text
            is the reason for every batch norm in it.
        ModelError: the network cannot be copied.
    """
    flow = _follow(network, defaults=False)
    optional = [node for node in flow.graph.nodes if node.op == "placeholder" and node.args]
    if optional and _follow(network, defaults=True).course() != flow.course():
        names = ", ".join(str(node.target) for node in optional)
        raise Refusal(f"the forward takes another course when optional arguments ({names}) are left out")
    return flow


def _follow(network: nn.Module, *, defaults: bool) -> Dataflow:
    """One pass, on a copy and without grad: a forward may write to what its modules hold."""
    probe = copied(network)
    before = _contents(probe)
    batchnorms = {id(found.module) for found in find(probe)}
    batchnorms |= {id(module) for module in probe.modules() if native.is_relative(module)}
    tracer = _Tracer(batchnorms, defaults=defaults)
    try:
        with torch.no_grad():
            graph = tracer.trace(probe)
    except Exception as error:  # the forward is foreign code: whatever it raises is the reason
        raise Refusal(f"the forward cannot be traced symbolically ({first_line(error)})") from error
    nodes = list(graph.nodes)
    if any(str(node.target).startswith("**") for node in nodes if node.op == "placeholder"):
        raise Refusal("the forward takes any keyword arguments, so its course is not known")
    used = {str(node.target) for node in nodes if node.op == "get_attr"}
    if any(name.startswith("_tensor_constant") for name in used):
        # Such a tensor may hold anything, a function of the very weights that folding changes included.
        raise Refusal("the forward makes tensors of its own while it is traced, so their origin is unknown")
    _check_unchanged(before, _contents(probe), _contents(network))
    whole = {str(node.target) for node in nodes if node.op == "call_module"}
    _check_all_seen(network, whole)
    attributes = {name: _attribute(network, name) for name in used}
    inside = [list(network.get_submodule(name).modules())[1:] for name in whole]
    handed = [list(held.modules()) for held in attributes.values() if isinstance(held, nn.Module)]
    hidden = frozenset(id(module) for group in (*inside, *handed) for module in group)
    return Dataflow(network, graph, tuple(attributes.values()), hidden)


def _check_all_seen(network: nn.Module, whole: set[str]) -> None:
    """Rules out code that tracing passes by, and code that runs otherwise in eval mode.

    Passed by are hooks on the network itself and all that is in the modules called as a whole. The mode of
    these does not change who calls them, so it is left to the examination of each batch norm.
    """
    parts: dict[str, nn.Module] = {}
    for name in sorted(whole):
        parts |= dict(network.get_submodule(name).named_modules(prefix=name))
    for path, module in {"": network, **parts}.items():
        if code := added_code(module):
            raise Refusal(f"{path or 'the network itself'} has {code}, which tracing does not see")
    passed_by = {id(module) for module in parts.values()}
    for path, module in network.named_modules():
        if module.training and id(module) not in passed_by:
            raise Refusal(
                f"{path or 'the network itself'} is in training mode, where its forward may take another "
                "course; call .eval() first"
            )


def _contents(network: nn.Module) -> dict[str, object]:
    """What the modules hold, by path: their attributes, and the items of those that are containers."""
    contents: dict[str, object] = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            contents[f"{path}.{name}"] = value
            if isinstance(value, dict):
                contents |= {f"{path}.{name}.{key}": item for key, item in value.items()}
            elif isinstance(value, (list, tuple, set, deque)):
                contents |= {f"{path}.{name}.{index}": item for index, item in enumerate(value)}
    return contents


def _check_unchanged(
    before: dict[str, object], after: dict[str, object], original: dict[str, object]
) -> None:
    """Rules out a forward that leaves something behind: its next pass may take another course."""
    for name in sorted(before.keys() | after.keys()):
        same = name in before and name in after and after[name] is before[name]
        held, given = after.get(name), original.get(name)
        if same and isinstance(held, Tensor) and isinstance(given, Tensor) and not held.is_meta:
            same = bool(torch.allclose(held, given, rtol=0, atol=0, equal_nan=True))
        if not same:
            raise Refusal(f"the forward changes {name.lstrip('.')}, so that no two passes need be alike")


def _attribute(network: nn.Module, path: str) -> object:
    """What hangs at a dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(network.get_submodule(owner), name)
