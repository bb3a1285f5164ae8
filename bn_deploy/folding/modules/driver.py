"""Folds the batch norms of a torch network. The algebra is that of the graph driver; here is the order.

The network is observed (`courses`), what it does is written down as a graph (`translate`), the graph is
folded, and what that changed is written back (`surgery`) and observed once more (`proof`). Deny by default: a
batch norm is folded when all that could make it wrong has been ruled out, and else kept with the reason.

What no run shows stays out of reach: memory that is read or written past Python (ctypes, a thread that is
there already), files, arguments of which no one can guess what they may be, and a size that becomes a plain
number (`int`, `math.gcd`, numpy) and is then compared with one that neither stands in the code nor is passed
by any of the sizes that are tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.convert import native_of
from bn_deploy.batchnorm.foreign import copied, twin
from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.bind import Bindings
from bn_deploy.folding.modules.course import Course, Inputs
from bn_deploy.folding.modules.courses import arguments, explore
from bn_deploy.folding.modules.example import examples_for
from bn_deploy.folding.modules.observe import Unrun
from bn_deploy.folding.modules.operators import whole
from bn_deploy.folding.modules.outside import as_before
from bn_deploy.folding.modules.proof import Unproved, prove
from bn_deploy.folding.modules.ranks import NOTE, FoldedRanks, channel_counts, doubtful, runs_at_other_ranks
from bn_deploy.folding.modules.rewrite import callers, rewritten
from bn_deploy.folding.modules.settle import Settled, settle
from bn_deploy.folding.modules.sites import Sites
from bn_deploy.folding.modules.state import check_unwritten
from bn_deploy.folding.modules.surgery import Edits
from bn_deploy.folding.modules.surgery import replace as put
from bn_deploy.folding.outcome import FoldReport, FoldResult, Refusal


def fold(module: nn.Module, example_inputs: Any = None) -> FoldResult:
    """Folds every batch norm of `module` that provably can be folded, whoever wrote it.

    The result computes the same function, up to rounding, in eval mode and without grad: the setting in which
    every flavour uses its moving statistics.

    Args:
        module: the network, in eval mode. It is not changed.
        example_inputs: what its forward takes: a tensor, a sequence of positional or a mapping of named
            arguments. The network is run on them, at batches of two and of one where it takes these. Left
            out, inputs of some size are tried that fit its first layer.

    Returns:
        A network in which each folded batch norm is an `nn.Identity`, or what the layer did besides, and the
        outcome of each of them.

    Raises:
        ModelError: the network cannot be copied, or fails on the example inputs.
        CheckFailed: a batch norm ended without an outcome, which would be a fault of this function.
    """
    _check_values(module)
    network = copied(module)  # the forward may write to it past torch
    sites = Sites(network)
    try:
        _check_mode(network)
        with as_before(network):
            given = [arguments(example_inputs)] if example_inputs is not None else examples_for(twin(network))
            result, report = _folded(network, sites, given)
        check_unwritten(module, network)
    except Refusal as refusal:
        result, report = copied(module), sites.all_kept(str(refusal))
    sites.check(result, report)
    return FoldResult(result, report)


def _check_values(network: nn.Module) -> None:
    """Rules out lazy layers.

    Raises:
        ModelError: one has never run.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{name} has no values yet; run the network once before it is folded")


def _check_mode(network: nn.Module) -> None:
    """Rules out code that runs otherwise in eval mode, but for torch's own layers.

    Raises:
        Refusal: a layer that is not torch's own is in training mode.
    """
    for path, module in network.named_modules():
        own = type(module).__module__.startswith("torch.nn.modules") and not list(module.children())
        if module.training and not own and not native.is_relative(module):
            raise Refusal(
                f"{path or 'the network itself'} is in training mode, where its forward may take another "
                "course; call .eval() first"
            )


def _folded(network: nn.Module, sites: Sites, examples: list[Inputs]) -> tuple[nn.Module, FoldReport]:
    """The folded network and the outcome of every batch norm; a Refusal is the outcome of all."""
    work = twin(network) if sites.swapped or sites.kept else network
    for path, found in sites.swapped.items():
        work = put(work, work.get_submodule(path), native_of(found))
    for path, layer in network.named_modules():
        if layer.training and path in sites.kept:  # it would write to its statistics
            work.get_submodule(path).forward = _unknown
    try:
        courses = explore(twin(work), examples, whole)
    except Unrun as error:
        if not sites.swapped:
            raise ModelError(f"the network fails on the example inputs: {error}") from error
        sites.keep_swapped(f"torch's batch norm would fail in its place ({error})")
        return _folded(network, sites, examples)
    if sites.keep_converting(courses):
        return _folded(network, sites, examples)
    settled = _at_seen_ranks(work, courses, settle(work, courses, sites.kept), examples)
    if settled.functions or settled.shared:
        again = _with_own_modules(work, courses, settled, examples, sites.kept)
        settled = again if again is not None and len(again.folded) > len(settled.folded) else settled
    result = settled.network
    for path, found in sites.swapped.items():
        if path not in settled.folded and path not in settled.changed:
            result = put(result, result.get_submodule(path), found.module)
    for layer in result.modules():
        if vars(layer).get("forward") is _unknown:
            del layer.forward
    return result, sites.report(settled)


def _at_seen_ranks(
    network: nn.Module, courses: list[Course], settled: Settled, examples: list[Inputs]
) -> Settled:
    """Lets what stays of a batch norm refuse the ranks that it took and that were not seen."""
    doubts = doubtful(network, courses, list(settled.folded))
    if not doubts or not runs_at_other_ranks(twin(settled.network), examples, channel_counts(network)):
        return settled
    result, folded = settled.network, dict(settled.folded)
    for path, ranks in doubts.items():
        old = result.get_submodule(path)
        rest = None if type(old) is nn.Identity else old
        result = put(result, old, FoldedRanks(ranks, rest).eval())
        folded[path] = replace(folded[path], note=_noted(folded[path].note, NOTE))
    return replace(settled, network=result, folded=folded)


def _noted(*notes: str | None) -> str:
    """Several notes in one."""
    return "; ".join(note for note in notes if note)


def _unknown(x: Tensor) -> Tensor:
    """Stands for a layer while the network is observed: nothing is known of this operator."""
    return x.sin()


def _with_own_modules(
    network: nn.Module,
    courses: list[Course],
    settled: Settled,
    examples: list[Inputs],
    kept: Mapping[str, str],
) -> Settled | None:
    """Folds the network again with a module for each call that needs one; None if that is not possible."""
    other, changed = twin(network), False
    for path in sorted(callers(courses, settled.shared) | settled.functions):
        try:
            module = rewritten(other.get_submodule(path), _arity(courses, path))
        except Refusal:
            continue
        if module is not None:
            changed = True
            other = module if not path else put(other, other.get_submodule(path), module)
    if not changed:
        return None
    try:
        prove(twin(other), courses, Bindings(), Edits(), whole)
        courses = explore(twin(other), examples, whole)
        again = _at_seen_ranks(other, courses, settle(other, courses, kept), examples)
    except (Refusal, Unproved, Unrun):
        return None
    new = {
        path: replace(f, note=_noted("own copy of the weight", f.note)) for path, f in again.folded.items()
    }
    return replace(again, folded={**new, **{p: f for p, f in settled.folded.items() if p in new}})


def _arity(courses: list[Course], path: str) -> int:
    """How many tensors a module was called with."""
    return next(len(call.inputs) for course in courses for call in course.calls if call.path == path)
