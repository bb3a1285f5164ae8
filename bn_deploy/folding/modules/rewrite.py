"""Rewrites a module's forward so that what was a function, or one module called twice, is a module each.

Only a module can be replaced or given weights of its own. The rewritten network computes the same; what it
does is compared with the courses of the original all the same (`proof`).
"""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from bn_deploy.batchnorm.foreign import added_code, first_line
from bn_deploy.folding.modules.course import Call, Course
from bn_deploy.folding.outcome import Refusal


class AnyRankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """torch's batch norm for inputs of any rank, as its function is."""

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 - torch's name
        """Nothing to check: the function takes every rank."""


def callers(courses: list[Course], shared: Iterable[str]) -> set[str]:
    """The paths of the modules that call a shared module, or one that it is part of, several times."""
    found = set()
    for course in courses:
        counts = Counter(call.path for call in course.calls)
        for call in course.calls:
            outer: Call | None = call if call.path in shared else None
            highest = None
            while outer is not None and outer.caller is not None:
                highest = outer if counts[outer.path] > 1 else highest
                outer = outer.caller
            if highest is not None and highest.caller is not None:
                found.add(highest.caller.path)
    return found


class _Tracer(fx.Tracer):
    """Sees the forward of one module; whatever that calls stays whole.

    Args:
        arity: how many arguments it has, if it takes any number.
    """

    def __init__(self, arity: int) -> None:
        super().__init__()
        self._arity = arity

    def create_args_for_root(
        self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        code = root_fn.__code__
        named = code.co_argcount - 1
        if not code.co_flags & inspect.CO_VARARGS:
            return super().create_args_for_root(root_fn, is_module, concrete_args)
        names = [*code.co_varnames[1 : 1 + named], *(f"argument_{n}" for n in range(self._arity - named))]
        return root_fn, [self.root, *(self.create_proxy("placeholder", name, (), {}) for name in names)]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch gives it
        return True


def rewritten(module: nn.Module, arity: int) -> nn.Module | None:
    """A module like `module` with a module for each call in its forward, or None if there is nothing to do.

    Args:
        module: whose forward has a function, or a module that it calls several times.
        arity: how many tensors it was called with.

    Raises:
        Refusal: its forward cannot be followed.
    """
    if code := added_code(module):
        raise Refusal(f"it has {code}")
    tracer = _Tracer(arity)
    try:
        with torch.no_grad():
            graph = tracer.trace(module)
    except Exception as error:  # the forward is foreign code: whatever it raises is the reason
        raise Refusal(f"its forward cannot be traced symbolically ({first_line(error)})") from error
    shown = nn.Module()
    shown.__dict__.update(module.__dict__)
    for name in ("_modules", "_parameters", "_buffers"):
        shown.__dict__[name] = dict(module.__dict__[name])
    seen: set[str] = set()
    changed = [_own_module(shown, graph, node, seen) for node in list(graph.nodes)]
    if not any(changed):
        return None
    for node in [node for node in graph.nodes if node.op == "get_attr" and not node.users]:
        graph.erase_node(node)
    graph.lint()
    return fx.GraphModule(shown, graph, type(module).__name__).eval()


def _own_module(root: nn.Module, graph: fx.Graph, node: fx.Node, seen: set[str]) -> bool:
    """Gives one call a module of its own; whether it needed one."""
    if node.op == "call_module":
        first = str(node.target) not in seen
        seen.add(str(node.target))
        if not first:
            again = copy.deepcopy(root.get_submodule(str(node.target)))
            node.target = _add(root, again, str(node.target).replace(".", "_"))
        return not first
    if node.op != "call_function" or node.target is not functional.batch_norm:
        return False
    bound = _bound(node)
    target = None if bound["training"] is not False else _owner(root, bound) or _made(root, bound)
    if target is None:
        return False
    with graph.inserting_before(node):
        _put(graph, node, graph.call_module(target, (bound["input"],)))
    return True


def _made(root: nn.Module, bound: Mapping[str, Any]) -> str | None:
    """A new batch norm for what a function is given; None if it has no statistics."""
    tensors = {name: _attribute(root, bound[name]) for name in _TENSORS}
    if not all(isinstance(tensors[name], Tensor) for name in ("running_mean", "running_var")):
        return None
    norm = AnyRankBatchNorm(len(tensors["running_mean"]), eps=float(bound["eps"]), affine=False).eval()
    for name in ("running_mean", "running_var"):
        norm._buffers[name] = tensors[name].detach()
    for name in ("weight", "bias"):
        given = tensors[name]
        norm._parameters[name] = given if given is None else nn.Parameter(given.detach())
    return _add(root, norm, "batch_norm")


def _put(graph: fx.Graph, old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    graph.erase_node(old)


def _owner(root: nn.Module, bound: Mapping[str, Any]) -> str | None:
    """The path of the batch norm whose numbers a function takes, if it does just what that would."""
    names = {str(bound[name].target) for name in _TENSORS if isinstance(bound[name], fx.Node)}
    paths = {name.rpartition(".")[0] for name in names}
    path = next(iter(paths))
    if len(paths) != 1 or len(names) != len(_TENSORS) or not path:
        return None
    layer = root.get_submodule(path)
    alike = isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.eps == bound["eps"]
    return path if alike and not layer.training and added_code(layer) is None else None


_TENSORS = ("running_mean", "running_var", "weight", "bias")
_NAMES = ("input", *_TENSORS, "training", "momentum", "eps")
_DEFAULTS: dict[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}


def _bound(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call of `functional.batch_norm` by name."""
    return {**_DEFAULTS, **dict(zip(_NAMES, node.args, strict=False)), **node.kwargs}


def _attribute(root: nn.Module, argument: Any) -> Any:
    """The tensor that an argument of a call is, or None."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    path, _, name = str(argument.target).rpartition(".")
    return getattr(root.get_submodule(path), name)


def _add(root: nn.Module, module: nn.Module, stem: str) -> str:
    """Adds a submodule under a name that is free."""
    number = 2
    while hasattr(root, f"{stem}_{number}"):
        number += 1
    root.add_module(f"{stem}_{number}", module)
    return f"{stem}_{number}"
