"""What a folded graph says about the network it was observed on: new weights, and batch norms that go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.modules.bind import Bindings, Norm, Weights, is_gone
from bn_deploy.folding.modules.course import Constant, Op, Slot, Value
from bn_deploy.folding.modules.translate import Translation
from bn_deploy.folding.outcome import Refusal


@dataclass
class Edits:
    """Changes to a network.

    Attributes:
        tensors: new numbers for its parameters.
        plain: the layers that are replaced by plain ones first, since they compute their weight.
        gone: batch norms that go, with what stays in their place.
        shifts: what those add from now on that follow an operator without a bias.
        changed: batch norms that stay and compute another map.
        of_op: the new weight and bias of an operator, None where that stays as it is.
    """

    tensors: dict[Slot, Tensor] = field(default_factory=dict)
    plain: dict[str, Tensor] = field(default_factory=dict)
    gone: dict[str, nn.Module] = field(default_factory=dict)
    shifts: dict[str, Tensor] = field(default_factory=dict)
    changed: dict[str, Affine] = field(default_factory=dict)
    of_op: dict[Op, tuple[Tensor | None, Tensor | None]] = field(default_factory=dict)


class Disagreement(Exception):
    """Modules that cannot be changed in one way that is right for all their uses, with the reason."""

    UNLIKE = "it is used several times, and its uses need different weights"

    def __init__(self, frozen: dict[str, str]) -> None:
        super().__init__(str(frozen))
        self.frozen = frozen


def edits_of(translation: Translation, bindings: Bindings, changed: Mapping[str, Field]) -> Edits:
    """Reads a folded graph back.

    Raises:
        Disagreement: a module would have to be changed in two ways; folding has to be tried without it.
    """
    edits = Edits()
    frozen: dict[str, str] = {}
    for weights in bindings.weights.values():
        try:
            _read_weights(edits, translation, bindings, weights)
        except Refusal as refusal:
            frozen[weights.weight[0]] = str(refusal)
    for op, weights in bindings.weights.items():
        if weights.weight[0] in frozen:
            continue
        # A use that wants nothing new disagrees with one that does.
        weight, bias = edits.of_op.get(op, (None, None))
        if weights.adds is not None:
            bias = edits.of_op.get(weights.adds, (None, None))[0]
        for slot, new in ((weights.weight, weight), (weights.bias, bias)):
            if new is None and slot is not None and slot in edits.tensors:
                frozen[weights.weight[0]] = Disagreement.UNLIKE
    for norm in bindings.norms.values():
        try:
            _read_norm(edits, translation, norm, changed)
        except Refusal as refusal:
            frozen[norm.path] = str(refusal)
    if frozen:
        raise Disagreement(frozen)
    return edits


def _read_weights(edits: Edits, translation: Translation, bindings: Bindings, weights: Weights) -> None:
    """Notes the new weights of one operator."""
    new: list[Tensor | None] = []
    values = _weights_of(translation, weights)
    for value, slot in zip(values, (weights.weight, weights.bias), strict=True):
        if value is None or value in translation.given:
            new.append(None)
            continue
        tensor = tensor_of(value)
        if slot is not None and weights.adds is not None and slot == weights.bias:
            tensor = _like_before(tensor, weights.adds)
        if slot == weights.bias and weights.beta != 1:
            tensor = tensor / weights.beta
        if slot is None:
            _shift_after(edits, bindings, weights.op, tensor)
            new.append(None)
            continue
        before = edits.tensors.get(slot)
        if before is not None and not torch.equal(before, tensor):
            raise Refusal(Disagreement.UNLIKE)
        edits.tensors[slot] = tensor
        new.append(tensor)
    if weights.adds is not None and new[1] is not None:
        edits.of_op[weights.adds] = (new.pop(), None)
        new.append(None)
    if new != [None, None]:
        edits.of_op[weights.op] = (new[0], new[1])
        if weights.layer is not None:
            given = weights.op.arguments["weight"].tensor
            edits.plain[weights.layer] = given


def _like_before(shift: Tensor, adding: Op) -> Tensor:
    """A shift in the shape of the parameter that is added until now."""
    (held,) = (given.tensor for given in adding.inputs if isinstance(given, Constant))
    if shift.numel() not in (1, held.numel()):
        raise Refusal("what is added after it has another shape than the shift")
    return shift.reshape(-1).expand(held.numel()).reshape(held.shape).clone()


def _weights_of(translation: Translation, weights: Weights) -> tuple[ir.Value | None, ir.Value | None]:
    """The weight and the bias that the node of a linear operator has now."""
    node = translation.nodes[weights.op]
    if node.op_type != "MatMul" and weights.adds is None:
        return node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    weight = next(value for value in node.inputs if value is not None and value.const_value is not None)
    # The graph driver adds the shift in a node of its own.
    readers = [use.node for use in node.outputs[0].uses()]
    added = [reader for reader in readers if reader not in translation.op_of]
    if added and (len(readers) > 1 or added[0].op_type != "Add"):
        raise Refusal("what follows it would do more than add a shift")
    if (
        weights.adds is not None
        and not added
        and not any(translation.op_of[r] is weights.adds for r in readers)
    ):
        raise Refusal("what is added after it would go")
    return weight, added[0].inputs[1] if added else None


def _shift_after(edits: Edits, bindings: Bindings, op: Op, shift: Tensor) -> None:
    """Lets the batch norm right after an operator without a bias stay as a shift."""
    for norm in bindings.norms.values():
        if [one.arguments["input"] for one in norm.ops] == op.outputs[:1] and norm.rest is None:
            channels = channels_of(norm.ops[0])
            if shift.numel() not in (1, channels):
                break
            edits.shifts[norm.path] = shift.reshape(-1).expand(channels).clone()
            return
    raise Refusal("it has no bias that could take the shift")


def _read_norm(edits: Edits, translation: Translation, norm: Norm, changed: Mapping[str, Field]) -> None:
    """Notes what becomes of one batch norm module."""
    nodes = [translation.nodes[op] for op in norm.ops]
    new = [changed.get(str(node.name)) for node in nodes]
    if all(field is None for field in new):
        gone = [is_gone(node) for node in nodes]
        if all(gone):
            edits.gone[norm.path] = norm.rest or nn.Identity().eval()
            if norm.path in edits.shifts:
                edits.gone[norm.path] = Shift(edits.shifts[norm.path], norm.ops[0].arguments["input"]).eval()
        elif any(gone):
            raise Refusal(f"only {sum(gone)} of its {len(nodes)} observed calls can be folded")
        return
    channels = int(channels_of(norm.ops[0]))
    affines = [field.along(1, channels) for field in new if field is not None]
    first = affines[0]
    same = all(np.array_equal(a.scale, first.scale) and np.array_equal(a.shift, first.shift) for a in affines)
    if len(affines) != len(nodes) or not same or norm.rest is not None:
        raise Refusal(f"it is called {len(nodes)} times, and its calls need different maps")
    edits.changed[norm.path] = first


class Shift(nn.Module):
    """Adds a number to each channel: what stays of a batch norm whose scale is in the weights before it.

    Args:
        shift: (C,).
        like: a value (N, C, ...) that it is added to.
    """

    def __init__(self, shift: Tensor, like: Value) -> None:
        super().__init__()
        self.bias = nn.Parameter(shift.reshape([-1, *[1] * (len(like.shape) - 2)]), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) to the same shape."""
        return x + self.bias


def channels_of(op: Op) -> int:
    """The number of channels of a batch norm."""
    return int(op.arguments["running_mean"].tensor.numel())


def tensor_of(value: ir.Value) -> Tensor:
    """The numbers of an initializer as a tensor of its type."""
    assert value.const_value is not None  # noqa: S101 - the graph driver writes initializers
    array = value.const_value.numpy()
    if value.dtype is ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def apply(network: nn.Module, edits: Edits) -> None:
    """Changes `network` in place. Its parameters are replaced, never written to: others may hold them."""
    for path, weight in edits.plain.items():
        replace(network, network.get_submodule(path), _plain(network.get_submodule(path), weight))
    for (path, name), tensor in edits.tensors.items():
        owner = network.get_submodule(path)
        old: Any = owner._parameters.get(name, owner._buffers.get(name))
        like: Any = old if old is not None else owner._parameters["weight"]
        new = tensor.to(like.device)
        if old is not None and (new.dtype, new.stride()) != (old.dtype, old.stride()):
            new = torch.empty_like(old.detach()).copy_(new)
        if name in owner._buffers:
            owner._buffers[name] = new
        else:
            owner._parameters[name] = nn.Parameter(new, requires_grad=like.requires_grad)
    for path, rest in edits.gone.items():
        replace(network, network.get_submodule(path), rest)
    for path, affine in edits.changed.items():
        _set_map(network.get_submodule(path), affine)


def _set_map(layer: nn.Module, affine: Affine) -> None:
    """Lets one of torch's batch norms compute `affine`: nothing is subtracted, and divided by sqrt(1 + 0)."""
    mean = layer.running_mean
    assert isinstance(mean, Tensor)  # noqa: S101 - it was observed with one
    layer.eps = 0.0  # type: ignore[assignment]
    layer._buffers["running_mean"] = torch.zeros_like(mean)
    layer._buffers["running_var"] = torch.ones_like(mean)
    for name, array in (("weight", affine.scale), ("bias", affine.shift)):
        layer._parameters[name] = nn.Parameter(torch.from_numpy(np.array(array)).to(mean))


def _plain(layer: nn.Module, weight: Tensor) -> nn.Module:
    """A layer of torch's own class with `weight`, and all else as in `layer`."""
    base: Any = next(cls for cls in type(layer).__mro__ if cls.__module__.startswith("torch.nn.modules"))
    new: nn.Module = base.__new__(base)
    nn.Module.__init__(new)
    for name, value in vars(layer).items():
        if not name.startswith("_") or name in ("_reversed_padding_repeated_twice",):
            new.__dict__[name] = value
    new.__dict__.pop("weight", None)
    bias = getattr(layer, "bias", None)
    new.register_parameter("weight", nn.Parameter(weight.detach().clone()))
    new.register_parameter("bias", None if bias is None else nn.Parameter(bias.detach().clone()))
    return new.train(layer.training)


def replace(network: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """Puts `new` wherever `old` hangs: an object may be registered under several names.

    Returns:
        `network`, or `new` if that replaces it as a whole.
    """
    if network is old:
        return new
    for parent in list(network.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
    return network
