"""Where the weights of each observed operator can be written back, and which modules are batch norms.

What has no such place is fixed in the graph, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir
from torch import nn
from torch.nn.modules.conv import _ConvNd

from bn_deploy.batchnorm.foreign import added_code
from bn_deploy.folding.modules.course import Call, Constant, Course, Op, Slot, Value
from bn_deploy.folding.modules.residue import residue_of
from bn_deploy.folding.modules.translate import Translation, plain
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True)
class Weights:
    """Where a linear operator's weights are.

    Attributes:
        op: the operator.
        weight: its weight.
        bias: its bias; None if there is no place for one.
        beta: what the operator multiplies its bias with.
        adds: the operator that adds the bias, if it is another one.
        layer: the path of the layer whose weight is computed from other parameters, and which can be
            replaced by a plain one; None for a weight that the network holds.
    """

    op: Op
    weight: Slot
    bias: Slot | None
    beta: float = 1.0
    adds: Op | None = None
    layer: str | None = None


@dataclass
class Norm:
    """A module that is a batch norm, perhaps with something after it.

    Attributes:
        path: its path.
        ops: its batch norms, one for each call.
        rest: what is left of it without the batch norm; None for nothing.
    """

    path: str
    ops: list[Op] = field(default_factory=list)
    rest: nn.Module | None = None


@dataclass
class Bindings:
    """All places that were found.

    Attributes:
        weights: by operator.
        norms: by path.
    """

    weights: dict[Op, Weights] = field(default_factory=dict)
    norms: dict[str, Norm] = field(default_factory=dict)


def bind(
    translation: Translation, courses: list[Course], frozen: Mapping[str, str], aside: set[Slot]
) -> Bindings:
    """Finds the place of each operator's weights; fixes all others.

    Args:
        translation: its `fixed` is filled.
        courses: what it was made of.
        frozen: paths of modules that may not change, with the reason.
        aside: parameters that the forward also uses otherwise.
    """
    bindings = Bindings()
    of_op = {op: course for course in courses for op in course.ops}
    for op, node in translation.nodes.items():
        path = op.call.path
        try:
            if plain(op.name) == "aten.batch_norm":
                _check_frozen(frozen, path)
                _bind_norm(bindings, of_op[op], op, aside)
            else:
                weights = _weights(op, aside)
                _check_frozen(frozen, weights.weight[0])
                if weights.bias is None:
                    weights = _with_added(weights, translation, aside)
                bindings.weights[op] = weights
        except Refusal as refusal:
            translation.fixed[node] = str(refusal)
    for norm in bindings.norms.values():
        refused = [op for op in norm.ops if translation.nodes[op] in translation.fixed]
        if refused:
            for op in norm.ops:
                translation.fixed[translation.nodes[op]] = translation.fixed[translation.nodes[refused[0]]]
    return bindings


def _check_frozen(frozen: Mapping[str, str], path: str) -> None:
    if path in frozen:
        raise Refusal(frozen[path])


def _weights(op: Op, aside: set[Slot]) -> Weights:
    """The place of a linear operator's weights."""
    call = op.call
    kind = plain(op.name)
    names = {"aten.addmm": ("mat2", "self")}.get(kind, ("weight", "bias"))
    if names[0] not in op.arguments:
        constants = [given for given in op.inputs if isinstance(given, Constant)]
        if len(constants) != 1:
            raise Refusal(f"the matrix product in the forward of {_shown(call)} has no constant factor")
        weight, bias = constants[0], None
    else:
        weight, bias = op.arguments[names[0]], op.arguments[names[1]]
    assert isinstance(weight, Constant)  # noqa: S101 - `aten` has read it
    if not weight.slots or set(weight.slots) & aside:
        return _computed(op, weight)
    own = _one(weight.slots, call.path, f"the weight of {_shown(call)}")
    if isinstance(bias, Constant):
        if not bias.slots or set(bias.slots) & aside:
            raise Refusal(f"the bias of {_shown(call)} is also used directly in the forward, or computed")
        place = _one(bias.slots, call.path, f"the bias of {_shown(call)}")
        beta = float(op.arguments.get("beta", 1))
        if beta == 0:
            raise Refusal(f"{_shown(call)} takes its bias zero times")
        return Weights(op, own, place, beta)
    empty = call.module._parameters.get("bias", call) is None and own[0] == call.path
    return Weights(op, own, (call.path, "bias") if empty else None)


def _with_added(weights: Weights, translation: Translation, aside: set[Slot]) -> Weights:
    """A bias that is added in the next operator, as in x @ w + b, is one all the same."""
    readers = [use.node for use in translation.nodes[weights.op].outputs[0].uses()]
    adding = translation.op_of[readers[0]] if len(readers) == 1 else None
    if (
        adding is None
        or plain(adding.name) != "aten.add"
        or not adding.exact
        or adding.arguments["alpha"] != 1
    ):
        return weights
    constants = [given for given in adding.inputs if isinstance(given, Constant)]
    if len(constants) != 1 or not constants[0].slots or set(constants[0].slots) & aside:
        return weights
    try:
        place = _one(constants[0].slots, adding.call.path, "the bias")
    except Refusal:
        return weights
    del translation.fixed[readers[0]]
    return replace(weights, bias=place, adds=adding)


def _one(slots: tuple[Slot, ...], path: str, name: str) -> Slot:
    """The place of a parameter: the module's own, if several hold it."""
    own = [slot for slot in slots if slot[0] == path]
    if own or len(slots) == 1:
        return (own or list(slots))[0]
    raise Refusal(f"{name} is held by several modules")


def _computed(op: Op, weight: Constant) -> Weights:
    """A layer that computes its weight, as weight norm does, can be replaced by one that holds the result."""
    call = op.call
    layer = call.module
    if weight.slots:
        names = ", ".join(".".join(filter(None, slot)) for slot in weight.slots)
        raise Refusal(f"{names} is also used directly in the forward")
    if not isinstance(layer, (_ConvNd, nn.Linear)):
        raise Refusal(f"the weight of {_shown(call)} is computed in its forward")
    foreign = [hook for hook in layer._forward_pre_hooks.values() if not _of_torch(hook)]
    if foreign or layer._forward_hooks or "forward" in vars(layer):
        raise Refusal(f"{_shown(call)} computes its weight and has code added to it")
    return Weights(op, (call.path, "weight"), (call.path, "bias"), layer=call.path)


def _of_torch(hook: object) -> bool:
    return type(hook).__module__.startswith("torch.nn.utils.")


def _bind_norm(bindings: Bindings, course: Course, op: Op, aside: set[Slot]) -> None:
    """The module that a batch norm is."""
    if any(set(given.slots) & aside for given in op.inputs if isinstance(given, Constant)):
        raise Refusal("its numbers are also used directly in the forward")
    call = op.call
    inside = [other for other in course.ops if other.call.within(call)]
    given, made = op.arguments["input"], op.outputs[0]
    assert isinstance(given, Value)  # noqa: S101 - `aten` has read it
    if call.inputs[:1] != [given] or len(call.inputs) != 1 or inside[0] is not op:
        raise Refusal(f"it is a function in the forward of {_shown(call)}, not a module")
    if code := added_code(call.module):
        raise Refusal(f"it has {code}")
    norm = bindings.norms.setdefault(call.path, Norm(call.path))
    norm.ops.append(op)
    if len(inside) > 1 or call.outputs != [made]:
        norm.rest = residue_of(call, op, inside)


def _shown(call: Call) -> str:
    return call.path or "the network itself"


def is_gone(node: ir.Node) -> bool:
    """Whether folding has taken `node` out of its graph."""
    return node.graph is None
