"""Folds the batch norms of a torch network. The algebra is in `absorb`; here is who may meet whom.

Deny by default: a batch norm is folded when everything that could make it wrong has been ruled out, and kept
with the reason otherwise.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.batchnorm.flavours import Found, find
from bn_deploy.batchnorm.tensors import to_vector
from bn_deploy.errors import CheckFailed
from bn_deploy.fold.absorb import absorb_after
from bn_deploy.fold.kinds import LinearKind, kind_of
from bn_deploy.fold.outcome import Folded, FoldReport, FoldResult, Kept, Refusal, Site
from bn_deploy.fold.rank import has_rank_two, observed_ranks
from bn_deploy.fold.trace import Dataflow, course, trace


def fold(module: nn.Module, example_inputs: Sequence[Any] | None = None) -> FoldResult:
    """Folds every batch norm of `module` that provably can be folded, of any known flavour.

    Args:
        module: the network, in eval mode. It is not changed.
        example_inputs: positional arguments of its forward. Needed only where a batch norm follows a linear
            layer whose output could have more than two axes; then only their shapes matter.

    Returns:
        A network in which each folded batch norm is an `nn.Identity`, and the outcome of each of them.

    Raises:
        CheckFailed: a batch norm ended without an outcome, which would be a fault of this function.
    """
    network = copy.deepcopy(module)
    try:
        before = course(network)
        report = _fold_in_place(network, example_inputs)
        if course(network) != before:
            raise Refusal("the forward's course depends on the weights, which folding changes")
    except Refusal as refusal:
        untouched = copy.deepcopy(module)
        return FoldResult(
            untouched, FoldReport((), tuple(Kept(Site(found.path), str(refusal)) for found in find(untouched)))
        )
    return FoldResult(network, report)


def _fold_in_place(network: nn.Module, example_inputs: Sequence[Any] | None) -> FoldReport:
    """Folds what can be folded and returns every batch norm's outcome."""
    everything = find(network)
    ranks = observed_ranks(network, example_inputs)
    flow = trace(network)
    # In the order of the calls, so that of two batch norms in a row the first is gone when the second's turn comes.
    position = {node: index for index, node in enumerate(flow.graph.nodes)}
    everything.sort(key=lambda f: min((position[node] for node in flow.calls(f.module)), default=len(position)))
    outcomes = [_outcome(flow, found, ranks) for found in everything]
    report = FoldReport(
        tuple(o for o in outcomes if isinstance(o, Folded)), tuple(o for o in outcomes if isinstance(o, Kept))
    )
    left = {found.path for found in find(network)}
    if left != {entry.site.batchnorm for entry in report.kept}:
        raise CheckFailed(f"batch norms without an outcome: {sorted(left)} against {report}")
    return report


def _outcome(flow: Dataflow, found: Found, ranks: dict[str, set[int]]) -> Folded | Kept:
    """Folds one batch norm, or says why not."""
    producer: str | None = None
    try:
        affine = _affine_of(found)
        node = _only_call(flow, found)
        source = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        if not isinstance(source, fx.Node) or flow.module_of(source) is None:
            raise Refusal("what feeds it is not the output of a layer")
        producer = str(source.target)
        layer = flow.network.get_submodule(producer)
        kind = kind_of(layer)
        if kind is None:
            raise Refusal(f"a {type(layer).__name__} before it cannot absorb an affine map")
        _check_producer(flow, producer, layer, source)
        if kind.channel_axis != 1 and not has_rank_two(flow, node, found, ranks):
            raise Refusal(
                "it is not proved that its input has rank 2, where the layer's features are the batch norm's "
                "channels; pass example_inputs"
            )
        _absorb(layer, kind, affine)
    except Refusal as refusal:
        return Kept(Site(found.path, producer), str(refusal))
    node.replace_all_uses_with(source)
    flow.graph.erase_node(node)
    _replace(flow.network, found.module, nn.Identity().eval())
    return Folded(Site(found.path, producer), kind.rule, found.flavour.name, float(np.abs(affine.scale).max()))


def _affine_of(found: Found) -> Affine:
    """The map that the batch norm is, if it is in eval mode and its numbers define one."""
    if found.module.training:
        raise Refusal("it is in training mode, where its output depends on the batch; call .eval() first")
    _check_plain(found.path, found.module)
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
    node: fx.Node = nodes[0]
    return node


def _check_producer(flow: Dataflow, path: str, layer: nn.Module, node: fx.Node) -> None:
    """Rules out that changing the layer's weights changes anything but this batch norm's input."""
    _check_plain(path, layer)
    if (count := len(flow.calls(layer))) > 1:
        raise Refusal(f"{path} is called {count} times")
    if len(node.users) > 1:
        raise Refusal(f"the output of {path} is used {len(node.users)} times")
    shared = Counter(id(p) for m in flow.network.modules() for p in m._parameters.values() if p is not None)
    for name, parameter in layer.named_parameters(recurse=False):
        if shared[id(parameter)] > 1:
            raise Refusal(f"{path}.{name} is shared with another layer")
        if any(parameter is used for used in flow.used_directly):
            raise Refusal(f"{path}.{name} is also used directly in the forward")


def _check_plain(path: str, module: nn.Module) -> None:
    """Rules out code around or inside a layer that tracing does not see."""
    if module._forward_hooks or module._forward_pre_hooks:
        raise Refusal(f"{path} has forward hooks")
    if "forward" in vars(module):
        raise Refusal(f"{path} has a forward of its own, put there from outside")


def _absorb(layer: nn.Module, kind: LinearKind, affine: Affine) -> None:
    """Gives `layer` the weights that do its own work and the map's; algebra in float64, one cast at the end."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)  # noqa: S101 - every kind in the table has one
    given = np.zeros(affine.channels) if bias is None else to_vector(bias)  # type: ignore[arg-type]  # a Tensor
    try:
        new_weight, new_bias = absorb_after(
            weight.detach().double().cpu().numpy(),
            given,
            affine,
            out_axis=kind.out_axis,
            groups=kind.groups(layer),
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
