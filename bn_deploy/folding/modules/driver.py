"""Folds the batch norms of a torch network. The algebra is in `absorb`; here is who may meet whom.

Deny by default: a batch norm is folded when everything that could make it wrong has been ruled out, and kept
with the reason otherwise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.affine import Affine
from bn_deploy.batchnorm.flavours import NATIVE, Found, find
from bn_deploy.batchnorm.foreign import copied
from bn_deploy.batchnorm.tensors import to_array, to_vector, widest_dtype
from bn_deploy.errors import CheckFailed
from bn_deploy.folding.absorb import absorb_after
from bn_deploy.folding.modules.kinds import LinearKind, kind_of
from bn_deploy.folding.modules.rank import Observation, check_rank, observe
from bn_deploy.folding.modules.trace import Dataflow, trace
from bn_deploy.folding.outcome import Folded, FoldReport, FoldResult, Kept, Refusal, Site


def fold(module: nn.Module, example_inputs: Sequence[Any] | None = None) -> FoldResult:
    """Folds every batch norm of `module` that provably can be folded, of any known flavour.

    The result computes the same function, up to rounding, of inputs with a batch axis, in eval mode and
    without grad: the setting in which every flavour uses its moving statistics.

    Args:
        module: the network, in eval mode. It is not changed.
        example_inputs: positional arguments of its forward. Needed only where a batch norm follows a linear
            layer whose output could have more than two axes; then only their shapes matter.

    Returns:
        A network in which each folded batch norm is an `nn.Identity`, and the outcome of each of them.

    Raises:
        ModelError: the network cannot be copied, or fails on the example inputs.
        CheckFailed: a batch norm ended without an outcome, which would be a fault of this function.
    """
    network = copied(module)
    try:
        report = _fold_in_place(network, example_inputs)
    except Refusal as refusal:
        network = copied(module)
        everything = [found.path for found in find(network)]
        report = FoldReport((), tuple(Kept(Site(path), str(refusal)) for path in everything))
    return FoldResult(network, FoldReport(report.folded, (*report.kept, *_relatives(network))))


def _relatives(network: nn.Module) -> list[Kept]:
    """Batch norms by descent, which no flavour claims."""
    return [
        Kept(
            Site(path),
            f"{type(layer).__name__} is a subclass of torch's batch norm and may compute something else",
        )
        for path, layer in network.named_modules()
        if native.is_relative(layer)
    ]


def _fold_in_place(network: nn.Module, example_inputs: Sequence[Any] | None) -> FoldReport:
    """Folds what can be folded and returns every batch norm's outcome; a Refusal is the outcome of all."""
    everything = find(network)
    flow = trace(network)
    before = flow.course()
    observed = None if example_inputs is None else observe(flow, example_inputs)
    # In the order of the calls: of two batch norms in a row, the first is gone when the second's turn comes.
    position = {node: index for index, node in enumerate(flow.graph.nodes)}
    everything.sort(
        key=lambda f: min((position[node] for node in flow.calls(f.module)), default=len(position))
    )
    outcomes = [_outcome(flow, found, observed) for found in everything]
    report = FoldReport(
        tuple(o for o in outcomes if isinstance(o, Folded)), tuple(o for o in outcomes if isinstance(o, Kept))
    )
    left = {found.path for found in find(network)}
    if left != {entry.site.batchnorm for entry in report.kept}:
        raise CheckFailed(f"batch norms without an outcome: {sorted(left)} against {report}")
    if trace(network).course() != before:
        raise Refusal("the forward's course depends on the weights, which folding changes")
    return report


@np.errstate(over="ignore", invalid="ignore")  # what overflows is found in the result, and is a reason
def _outcome(flow: Dataflow, found: Found, observed: Observation | None) -> Folded | Kept:
    """Folds one batch norm, or says why not."""
    producer: str | None = None
    try:
        affine = _affine_of(found)
        node = _only_call(flow, found)
        source, layer = _producer(flow, node)
        producer = str(source.target)
        kind = _kind(layer)
        _check_producer(flow, producer, layer, source)
        check_rank(flow, source, found, kind, observed)
        _absorb(layer, kind, affine, found)
    except Refusal as refusal:
        return Kept(Site(found.path, producer), str(refusal))
    node.replace_all_uses_with(source)
    flow.graph.erase_node(node)
    _replace(flow.network, found.module, nn.Identity().eval())
    return Folded(
        Site(found.path, producer), kind.rule, found.flavour.name, float(np.abs(affine.scale).max())
    )


def _affine_of(found: Found) -> Affine:
    """The map that the batch norm is, if it is in eval mode and its numbers define one."""
    if found.module.training:
        raise Refusal("it is in training mode, where its output depends on the batch; call .eval() first")
    try:
        return found.flavour.params(found.module).affine()
    except ValueError as error:
        raise Refusal(str(error)) from error


def _only_call(flow: Dataflow, found: Found) -> fx.Node:
    """The one call of the batch norm."""
    nodes = flow.calls(found.module)
    if not nodes:
        raise Refusal("it is never called in the traced forward")
    if len(nodes) > 1:
        raise Refusal(f"it is called {len(nodes)} times")
    if id(found.module) in flow.hidden:
        raise Refusal("it is also part of another layer, whose inside tracing does not see")
    return nodes[0]


def _producer(flow: Dataflow, node: fx.Node) -> tuple[fx.Node, nn.Module]:
    """The call of a layer whose output is the one argument of `node`, and that layer."""
    source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
    layer = flow.module_of(source) if isinstance(source, fx.Node) else None
    if not isinstance(source, fx.Node) or layer is None:
        raise Refusal("what feeds it is not the output of a layer")
    return source, layer


def _kind(layer: nn.Module) -> LinearKind:
    """The row of the table for a layer that can absorb a map."""
    kind = kind_of(layer)
    if kind is None:
        raise Refusal(f"a {type(layer).__name__} before it cannot absorb an affine map")
    return kind


def _check_producer(flow: Dataflow, path: str, layer: nn.Module, node: fx.Node) -> None:
    """Rules out that changing the layer's weights changes anything but this batch norm's input."""
    if (count := len(flow.calls(layer))) > 1:
        raise Refusal(f"{path} is called {count} times")
    if id(layer) in flow.hidden:
        raise Refusal(f"{path} is also part of another layer, whose inside tracing does not see")
    if len(node.users) > 1:
        raise Refusal(f"the output of {path} is used {len(node.users)} times")
    shared = Counter(id(p) for m in flow.network.modules() for p in m._parameters.values() if p is not None)
    for name, parameter in layer.named_parameters(recurse=False):
        if shared[id(parameter)] > 1:
            raise Refusal(f"{path}.{name} is shared with another layer")
        if any(parameter is used for used in flow.used_directly):
            raise Refusal(f"{path}.{name} is also used directly in the forward")


def _absorb(layer: nn.Module, kind: LinearKind, affine: Affine, found: Found) -> None:
    """Gives `layer` the weights that do its own work and the map's: algebra in float64, then one cast."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)  # noqa: S101 - every kind in the table has one
    # torch's batch norm returns the type of its input; a hand-written one promotes it.
    if found.flavour is not NATIVE and (dtype := widest_dtype(found.module)) is not weight.dtype:
        raise Refusal(f"it computes in {dtype}, the layer before it in {weight.dtype}")
    try:
        given = to_vector(bias) if isinstance(bias, Tensor) else np.zeros(affine.channels)
        new_weight, new_bias = absorb_after(
            to_array(weight), given, affine, out_axis=kind.out_axis, groups=kind.groups(layer)
        )
    except ValueError as error:
        raise Refusal(str(error)) from error
    cast = [torch.from_numpy(array).to(weight) for array in (new_weight, new_bias)]
    if not all(torch.isfinite(tensor).all() for tensor in cast):
        raise Refusal(f"the folded weights overflow {str(weight.dtype).removeprefix('torch.')}")
    layer.weight, layer.bias = (nn.Parameter(tensor, requires_grad=weight.requires_grad) for tensor in cast)


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Puts `new` wherever `old` hangs: an object may be registered under several names."""
    for parent in network.modules():
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
