"""What is left of a module without its batch norm: an activation, as in layers that are both in one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from bn_deploy.folding.modules.course import Call, Constant, Op, Value
from bn_deploy.folding.modules.translate import plain
from bn_deploy.folding.outcome import Refusal

_ELEMENTWISE = frozenset(
    {
        *("aten.celu", "aten.clamp", "aten.clamp_max", "aten.clamp_min", "aten.elu", "aten.gelu"),
        *("aten.hardsigmoid", "aten.hardswish", "aten.hardtanh", "aten.leaky_relu", "aten.mish"),
        *("aten.mul", "aten.add", "aten.div", "aten.sub", "aten.neg", "aten.prelu", "aten.relu"),
        *(
            "aten.relu6",
            "aten.selu",
            "aten.sigmoid",
            "aten.silu",
            "aten.softplus",
            "aten.square",
            "aten.tanh",
        ),
    }
)
"""Operators that treat every element alike, whatever the sizes."""


def residue_of(call: Call, norm: Op, inside: list[Op]) -> nn.Module:
    """A module that does what `call` did after its batch norm.

    Args:
        call: a call that begins with a batch norm.
        norm: that batch norm.
        inside: every operator of the call.

    Raises:
        Refusal: something among it is more than a function of each element.
    """
    graph = fx.Graph()
    root = nn.Module()
    nodes: dict[Value, fx.Node] = {}
    made = norm.outputs[0]
    assert made is not None  # noqa: S101 - a batch norm has a result
    nodes[made] = graph.placeholder("x")
    name = call.path or "the network itself"

    def known(argument: Any) -> Any:
        if isinstance(argument, Value):
            if argument not in nodes:
                raise Refusal(f"{name} does more than normalize and activate")
            return nodes[argument]
        if isinstance(argument, Constant):
            return graph.get_attr(_held(root, argument.tensor))
        return argument

    for op in inside:
        if op is norm:
            continue
        function = _function(op)
        if function is None or len(op.outputs) != 1 or op.outputs[0] is None:
            raise Refusal(f"{name} does more than normalize and activate: {plain(op.name)}")
        arguments = [known(value) for value in op.arguments.values()]
        named = {a.name for a in function._schema.arguments if a.kwarg_only}
        places = list(zip(function._schema.arguments, arguments, strict=True))
        nodes[op.outputs[0]] = graph.call_function(
            function,
            tuple(given for place, given in places if place.name not in named),
            {place.name: given for place, given in places if place.name in named},
        )
    if len(call.outputs) != 1 or call.outputs[0] not in nodes:
        raise Refusal(f"{name} returns more than one tensor")
    graph.output(nodes[call.outputs[0]])
    return fx.GraphModule(root, graph, type(call.module).__name__).eval()


def _held(root: nn.Module, tensor: Tensor) -> str:
    """Keeps a tensor in `root`; returns its name."""
    name = f"constant_{len(root._buffers)}"
    root.register_buffer(name, tensor.detach().clone())
    return name


def _function(op: Op) -> Any:
    """The operator of torch that writes to nothing, or None if it is not among those that are known."""
    if plain(op.name) not in _ELEMENTWISE or not op.exact:
        return None
    _, _, overload = op.name.split(".")
    packet = getattr(torch.ops.aten, plain(op.name).removeprefix("aten."))
    found = getattr(packet, overload, None)
    return found if found is not None and len(found._schema.arguments) == len(op.arguments) else None
