"""What every layer of a network gives: in torch its modules are watched, in ONNX the graph is marked or cut.

Marking makes values in the middle outputs of the graph, so that one run gives all of them. An engine fuses
other layers when values are marked; there the graph is cut after a value, and the part before it is built.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from bn_deploy.backends.base import Array

_NARROW = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


def of_torch(network: nn.Module, images: Array, kind: torch.dtype) -> dict[str, Array]:
    """The output of every layer without layers of its own, by path, in float64 and in the order they ran.

    Args:
        network: in eval mode.
        images: (n, ...).
        kind: what to compute in.
    """
    copied = copy.deepcopy(network).to(kind).eval()
    seen: dict[str, Array] = {}

    def note(path: str) -> object:
        def hook(_: nn.Module, __: object, out: object) -> None:
            if isinstance(out, Tensor):
                seen.pop(path, None)  # a layer that runs twice counts where it ran last
                seen[path] = np.asarray(out.detach().double().numpy()).copy()

        return hook

    leaves = [(path, module) for path, module in copied.named_modules() if not [*module.children()]]
    handles = [module.register_forward_hook(note(path)) for path, module in leaves]
    try:
        with torch.no_grad():
            copied(torch.from_numpy(np.array(images)).to(kind))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def last_values(model: onnx.ModelProto, names: Mapping[str, str]) -> dict[str, str]:
    """For each layer the value of the graph that it gives: the last one that it makes, in the graph's order.

    Args:
        model: the graph.
        names: the layer of each value, as `layer_names` says.
    """
    made = [value for node in model.graph.node for value in node.output]
    return {names[value]: value for value in made if value in names}


def marked(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy of `model` with these values as further outputs."""
    return _with_outputs(model, [value.name for value in model.graph.output], values)


def cut(model: onnx.ModelProto, value: str) -> onnx.ModelProto:
    """The part of `model` that computes `value`, which is its only output; one in half is widened."""
    part = _with_outputs(model, [], [value])
    needed = {value}
    kept = []
    for node in reversed(part.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    del part.graph.node[:]
    part.graph.node.extend(reversed(kept))
    weights = [tensor for tensor in part.graph.initializer if tensor.name in needed]
    del part.graph.initializer[:]
    part.graph.initializer.extend(weights)
    kind = part.graph.output[0].type.tensor_type
    if kind.elem_type in _NARROW:  # bfloat16 is no type of numpy's
        kind.elem_type = onnx.TensorProto.FLOAT
        part.graph.output[0].name = f"{value}.wide"
        part.graph.node.append(
            onnx.helper.make_node("Cast", [value], [f"{value}.wide"], to=onnx.TensorProto.FLOAT)
        )
    return part


def _with_outputs(model: onnx.ModelProto, old: list[str], new: Iterable[str]) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {v.name: v for v in (*inferred.graph.value_info, *inferred.graph.output)}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(known[name] for name in dict.fromkeys([*old, *new]) if name in known)
    return changed
