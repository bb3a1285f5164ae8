"""Folds the batch norms of an ONNX graph. The algebra is in `absorb` and `field`; here is the order.

A batch norm is a chain of affine nodes (`chains`). It goes into what feeds it (`backward`), or else into all
that reads it (`forward`), or else it stays as at most one scale and one shift. Either way is planned whole,
and every number checked, before the graph is touched (`plan`). Whatever is not known to be right is refused.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from bn_deploy.errors import CheckFailed
from bn_deploy.folding.graph.backward import backward
from bn_deploy.folding.graph.chains import BatchNorm, Chain, Chains
from bn_deploy.folding.graph.forward import forward
from bn_deploy.folding.graph.network import OPSETS, Network, label
from bn_deploy.folding.graph.plan import Plan, commit, erase, rewrite
from bn_deploy.folding.outcome import Folded, FoldReport, Kept, Refusal, Site


def fold_model(model: ir.Model) -> FoldReport:
    """Folds every batch norm of `model` that provably can be folded, in place.

    The result computes the same function, up to rounding. Inputs and outputs keep their names, types and
    shapes, and nodes that are not concerned stay as they are. Functions are inlined.

    Args:
        model: any ONNX model in inference mode, from any framework.

    Returns:
        The outcome of each BatchNormalization, and of each run of elementwise nodes that is a batch norm.

    Raises:
        CheckFailed: a batch norm ended without an outcome, which would be a fault of this function.
    """
    if model.functions:
        passes.InlinePass()(model)
    operators = Counter(label(node) for node in model.graph.all_nodes() if _is_batchnorm(node))
    with np.errstate(all="ignore"):  # what is not finite is found in the results, and is a reason
        report = _Folder(model).fold()
    kept = Counter(entry.site.batchnorm for entry in report.kept)
    outcomes = kept + Counter(entry.site.batchnorm for entry in report.folded)
    lost = [name for name, count in operators.items() if outcomes[name] < count]
    left = Counter(label(node) for node in model.graph.all_nodes() if _is_batchnorm(node))
    if lost or any(count > kept[name] for name, count in left.items()):
        raise CheckFailed(f"batch norms without an outcome: {lost or sorted(left)}, in {report}")
    return report


def _is_batchnorm(node: ir.Node) -> bool:
    return node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")


class _Folder:
    """Folds one model.

    Attributes:
        folded, kept: the outcomes so far; a later round may fold what an earlier one kept.
        known: which nodes stand for which batch norms.
    """

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.folded: list[Folded] = []
        self.kept: dict[BatchNorm, Kept] = {}
        self.known: dict[ir.Node, list[BatchNorm]] = {}

    def fold(self) -> FoldReport:
        model = self.model
        network = Network(model)
        if network.opset not in OPSETS:
            reason = f"opset {network.opset} is not among those that are known, {OPSETS[0]} to {OPSETS[-1]}"
            nodes = [node for node in model.graph.all_nodes() if _is_batchnorm(node)]
            return FoldReport((), tuple(Kept(Site(label(node)), reason) for node in nodes))
        inner = [Kept(Site(label(node)), reason) for node, reason in network.inner_batchnorms()]
        spared = {value for value in model.graph.initializers.values() if not network.is_read(value)}
        spared |= network.constants.overridable
        for node in network.sweep(spared):
            if _is_batchnorm(node):
                self.folded.append(Folded(Site(label(node)), "removal: nothing reads it", "onnx", 0.0))
        while self._round(network) and self.kept:
            pass
        network.sweep(spared)
        network.forget()
        return FoldReport(tuple(self.folded), (*self.kept.values(), *inner))

    def _round(self, network: Network) -> bool:
        """Tries every chain once, in the order of the graph; returns whether any went."""
        chains = Chains(network, self.known)
        self.kept = {
            batchnorm: Kept(Site(batchnorm.name), reason) for batchnorm, reason in chains.refused.items()
        }
        gone: set[Chain] = set()
        for chain in chains.all:
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
        for attempt in (backward, forward):
            try:
                plan = attempt(network, chains, chain)
            except Refusal as refusal:
                reasons.append(str(refusal))
                continue
            commit(network, plan)
            for other in plan.rewritten:
                self.known[other.links[0].node] = other.batchnorms
                chains.moved(other)
            self._note(chain, plan, forwards=attempt is forward)
            return plan.erased
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
                self._fold(other, f"{rule} into {names}", None)
            else:
                self._fold(other, rule, names or None)

    def _fold(self, chain: Chain, rule: str, producer: str | None) -> None:
        for batchnorm in chain.batchnorms:
            self.kept.pop(batchnorm, None)
            site = Site(batchnorm.name, producer)
            largest = float(np.abs(chain.field.scale).max())
            self.folded.append(Folded(site, rule, batchnorm.flavour, largest))

    def _merge(self, network: Network, chains: Chains, chain: Chain) -> None:
        """Lets what stays be at most one scale and one shift; of several batch norms the last stays."""
        if chain.is_short:
            return
        plan = Plan(rewritten={chain: chain.field})
        try:
            plan.check()
        except Refusal:
            return
        *others, last = chain.batchnorms
        rewrite(network, chain, chain.field)
        chains.moved(chain)
        for batchnorm in others:
            self.folded.append(
                Folded(
                    Site(batchnorm.name), "bn-bn", batchnorm.flavour, float(np.abs(chain.field.scale).max())
                )
            )
        chain.batchnorms = [last]
        self.known[chain.links[0].node] = [last]
