"""Folds the batch norms of an ONNX graph. The algebra is in `absorb` and `field`; here is the order.

A batch norm is a chain of affine nodes (`chains`). It goes into what feeds it (`backward`), or else into all
that reads it (`forward`), or else it stays as at most one scale and one shift. Either way is planned whole,
and every number checked, before the graph is touched (`plan`). Whatever is not known to be right is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from bn_deploy.errors import CheckFailed
from bn_deploy.folding.graph.backward import backward
from bn_deploy.folding.graph.branches import merge_branches as merge
from bn_deploy.folding.graph.chains import BatchNorm, Chain, Chains
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.forward import forward
from bn_deploy.folding.graph.network import OPSETS, Network, label
from bn_deploy.folding.graph.padding import border_exact
from bn_deploy.folding.graph.plan import Plan, commit, erase, rewrite
from bn_deploy.folding.graph.weights import Edit
from bn_deploy.folding.outcome import Folded, FoldReport, Kept, Refusal, Site

_SHARE = 0.25
"""How many operators all maps may pass in the order of the graph, for each node. Real networks need less."""


@dataclass(frozen=True)
class FoldedNodes:
    """What folding the nodes of a graph gave.

    Attributes:
        report: the outcome of each batch norm.
        changed: the map that a batch norm which stays computes from now on, if that is another one than
            before, by the name of its node.
    """

    report: FoldReport
    changed: Mapping[str, Field]


def fold_model(
    model: ir.Model,
    *,
    pad_exact: bool = False,
    merge_branches: bool = False,
    written: onnx.ModelProto | None = None,
) -> FoldReport:
    """Folds every batch norm of `model` that provably can be folded, in place.

    The result computes the same function, up to rounding. Inputs and outputs keep their names, types and
    shapes, and nodes that are not concerned stay as they are. Functions are inlined.

    Args:
        model: any ONNX model in inference mode, from any framework.
        pad_exact: also split batch norms before padded zeros, see `padding`.
        merge_branches: also let parallel linear branches become one operator, see `branches`.
        written: the skeleton that `model` was read from and still agrees with, which need not be made again.

    Returns:
        The outcome of each BatchNormalization, and of each run of elementwise nodes that is a batch norm.

    Raises:
        CheckFailed: a batch norm ended without an outcome, which would be a fault of this function.
    """
    if model.functions:
        passes.InlinePass()(model)
        written = None
    operators = _batchnorms(model)
    with np.errstate(all="ignore"):  # what is not finite is found in the results, and is a reason
        network = Network(model, {}, written=written)
        report = _Folder(network, pad_exact=pad_exact, merge_branches=merge_branches).fold().report
    kept = Counter(entry.site.batchnorm for entry in report.kept)
    outcomes = kept + Counter(entry.site.batchnorm for entry in report.folded)
    lost = [name for name, count in operators.items() if outcomes[name] < count]
    left = _batchnorms(model)
    if lost or any(count > kept[name] for name, count in left.items()):
        raise CheckFailed(f"batch norms without an outcome: {lost or sorted(left)}, in {report}")
    return report


def fold_nodes(model: ir.Model, fixed: Mapping[ir.Node, str]) -> FoldedNodes:
    """As `fold_model`, for a graph that somebody else reads back: some of its nodes may have to stay.

    Where every value carries its type and shape, these are taken as they are. Their sizes are numbers, or
    names that stand for one number everywhere, or unknown. Operators of foreign domains are left alone, but
    for `Linear`, see `linear.LINEAR_DOMAIN`.

    Args:
        model: without functions; its nodes are sorted, and may be several graphs that share initializers.
        fixed: nodes that stay exactly as they are, and why. Such a linear operator absorbs nothing, such a
            batch norm is kept and takes no map; an affine node lets maps pass if they can change places.

    Returns:
        The report, and what the batch norms that stay have become.
    """
    with np.errstate(all="ignore"):  # what is not finite is found in the results, and is a reason
        return _Folder(Network(model, fixed, infer=False)).fold()


Attempt = Callable[[Network, Chains, Chain], Plan]


def _batchnorms(model: ir.Model) -> Counter[str]:
    """How many batch norm operators there are of each name, in inner graphs too."""
    return Counter(label(node) for node in model.graph.all_nodes() if _is_batchnorm(node))


def _is_batchnorm(node: ir.Node) -> bool:
    return node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")


class _Folder:
    """Folds one model.

    Attributes:
        folded, kept: the outcomes so far; a later round may fold what an earlier one kept.
        edits: the weights that each folded one went into.
        changed: what those compute that have taken over another map.
        known: which nodes stand for which batch norms.
    """

    def __init__(self, network: Network, *, pad_exact: bool = False, merge_branches: bool = False) -> None:
        self.network = network
        self.attempts: tuple[Attempt, ...] = (backward, forward)
        self.later = (border_exact,) if pad_exact else ()
        self.merge_branches = merge_branches
        self.folded: list[Folded] = []
        self.edits: dict[Folded, list[Edit]] = {}
        self.kept: dict[BatchNorm, Kept] = {}
        self.changed: dict[BatchNorm, Field] = {}
        self.known: dict[ir.Node, list[BatchNorm]] = {}

    def fold(self) -> FoldedNodes:
        network = self.network
        if network.opset not in OPSETS:
            reason = f"opset {network.opset} is not among those that are known, {OPSETS[0]} to {OPSETS[-1]}"
            nodes = [node for node in network.graph.all_nodes() if _is_batchnorm(node)]
            return FoldedNodes(FoldReport((), tuple(Kept(Site(label(node)), reason) for node in nodes)), {})
        inner = [Kept(Site(label(node)), reason) for node, reason in network.inner_batchnorms()]
        spared = {value for value in network.graph.initializers.values() if not network.is_read(value)}
        spared |= network.constants.overridable
        for node in network.sweep(spared):
            if _is_batchnorm(node):
                self.folded.append(Folded(Site(label(node)), "removal: nothing reads it", "onnx", 0.0))
        self._compute(network)
        self._rounds(network)
        if self.later:
            self.attempts += self.later
            self._rounds(network)
        network.sweep(spared)
        network.forget()
        folded = tuple(self._with_note(network, entry) for entry in self.folded)
        changed = {entry.name: field for entry, field in self.changed.items() if entry in self.kept}
        return FoldedNodes(FoldReport(folded, (*self.kept.values(), *inner)), changed)

    def _compute(self, network: Network) -> None:
        """Replaces batch norms of constants, as of layers that standardise weights, by what they give."""
        for node in list(network.graph):
            value = node.outputs[0] if node.outputs else None
            if not _is_batchnorm(node) or node in network.fixed or value is None:
                continue
            if network.constants.is_real(value) and network.seen_outside(value) is None:
                stored = network.constants.stored(value)
                for reader, index in network.uses(value):
                    reader.replace_input_with(index, stored)
                network.graph.remove(node, safe=True)
                self.folded.append(Folded(Site(label(node)), "removal: it reads constants", "onnx", 0.0))

    def _rounds(self, network: Network) -> None:
        """Tries until nothing changes any more.

        In the order of the graph each batch norm goes all the way to what absorbs it. Where many have a long
        way, such as in a row of pools, each goes into the one before it instead, the last one first.
        """
        while True:
            network.rest(_SHARE)
            while self._round(network) and self.kept and not network.is_exhausted:
                pass
            if network.is_exhausted:
                network.rest(16 * _SHARE)
                while self._round(network, backwards=True) and self.kept and not network.is_exhausted:
                    pass
            if not (self.merge_branches and self._merge_branches(network)):
                break

    def _merge_branches(self, network: Network) -> bool:
        """Merges branches; returns whether there were any."""
        merged = merge(network, Chains(network, self.known))
        for chain, node in merged.gone:
            self._fold(chain, f"branches into one {node.op_type.lower()}", label(node))
        for chain, reason in merged.refused.items():
            for batchnorm in set(chain.batchnorms) & set(self.kept):
                kept = self.kept[batchnorm]
                self.kept[batchnorm] = Kept(kept.site, f"{kept.reason}; {reason}")
        return merged.count > 0

    def _round(self, network: Network, *, backwards: bool = False) -> bool:
        """Tries every chain once, in the order of the graph or backwards; returns whether any went."""
        chains = Chains(network, self.known)
        self.kept = {
            batchnorm: Kept(Site(batchnorm.name), reason) for batchnorm, reason in chains.refused.items()
        }
        gone: set[Chain] = set()
        for chain in reversed(chains.all) if backwards else chains.all:
            if network.is_exhausted and not backwards:
                break  # there will be another round, which finds a reason for all that stay
            if chain.batchnorms and chain not in gone:
                gone.update(self._treat(network, chains, chain))
        return bool(gone)

    def _treat(self, network: Network, chains: Chains, chain: Chain) -> list[Chain]:
        """Folds one chain, or else merges it; returns the chains that are gone."""
        if chain.field.is_identity:
            erase(network, chain)
            self._fold(chain, "identity", None)
            return [chain]
        reasons = []
        for attempt in self.attempts:
            try:
                plan = attempt(network, chains, chain)
            except Refusal as refusal:
                if (reason := str(refusal)) not in reasons:
                    reasons.append(reason)
                continue
            commit(network, plan)
            for other in plan.rewritten:
                self._settle(chains, other)
            self._note(chain, plan, forwards=attempt is not backward)
            return [chain, *plan.erased]
        self._merge(network, chains, chain)
        reason = "; after it, ".join(reasons)
        for batchnorm in chain.batchnorms:
            self.kept[batchnorm] = Kept(Site(batchnorm.name), reason)
        return []

    def _note(self, chain: Chain, plan: Plan, *, forwards: bool) -> None:
        """Enters the outcome of every batch norm that a plan has removed."""
        names = ", ".join(dict.fromkeys(label(node) for node in plan.nodes))
        rule = f"{', '.join(plan.rules) or 'identity'}{plan.through()}"
        for other in dict.fromkeys((chain, *plan.erased)):
            if forwards:
                entries = self._fold(other, f"{rule} into {names}", None, plan.warning)
            else:
                entries = self._fold(other, rule, names or None, plan.warning)
            self.edits.update(dict.fromkeys(entries, plan.edits))

    def _fold(
        self, chain: Chain, rule: str, producer: str | None, warning: str | None = None
    ) -> list[Folded]:
        largest, entries = float(np.abs(chain.field.scale).max()), []
        for batchnorm in chain.batchnorms:
            self.kept.pop(batchnorm, None)
            site = Site(batchnorm.name, producer)
            entries.append(Folded(site, rule, batchnorm.flavour, largest, warning=warning))
        self.folded += entries
        return entries

    def _with_note(self, network: Network, entry: Folded) -> Folded:
        """`entry`, which says so if a weight that several nodes shared has become one for a part of them."""
        copied = [
            label(edit.base)
            for edit in self.edits.get(entry, [])
            if network.constants.has_own_copy(edit.node.inputs[edit.index])
        ]
        names = ", ".join(dict.fromkeys(copied))
        return replace(entry, note=f"with an own copy of {names}, which others share") if names else entry

    def _merge(self, network: Network, chains: Chains, chain: Chain) -> None:
        """Lets what stays be at most one scale and one shift; of several batch norms the last stays."""
        if chain.is_short:
            return
        plan = Plan(rewritten={chain: chain.field})
        try:
            plan.check(network)
        except Refusal:
            return
        rewrite(network, chain, chain.field)
        self._settle(chains, chain)

    def _settle(self, chains: Chains, chain: Chain) -> None:
        """Notes that `chain` was written anew; of several batch norms in it the last stays."""
        chains.moved(chain)
        others, chain.batchnorms = chain.batchnorms[:-1], chain.batchnorms[-1:]
        largest = float(np.abs(chain.field.scale).max())
        for batchnorm in others:
            self.kept.pop(batchnorm, None)
            self.folded.append(Folded(Site(batchnorm.name), "bn-bn", batchnorm.flavour, largest))
        self.known[chain.links[0].node] = chain.batchnorms
        self.changed.update(dict.fromkeys(chain.batchnorms, chain.field))
