"""Folds observed courses, again and again, without what cannot be changed in a way that is always right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from bn_deploy.batchnorm.foreign import twin
from bn_deploy.folding.graph.driver import fold_nodes
from bn_deploy.folding.modules.bind import Bindings, bind
from bn_deploy.folding.modules.course import Course
from bn_deploy.folding.modules.operators import ATEN, whole
from bn_deploy.folding.modules.proof import Unproved, prove
from bn_deploy.folding.modules.surgery import Disagreement, Edits, apply, edits_of
from bn_deploy.folding.modules.translate import Translation, plain
from bn_deploy.folding.outcome import Folded, FoldReport, Refusal

_ROUNDS = 32
"""How often it is tried again. Real networks need one round or two."""


@dataclass(frozen=True)
class Settled:
    """A folded network.

    Attributes:
        network: it shares with the network that was given the tensors that stay as they are.
        folded: the batch norms that are gone, by path, as the graph driver reports them.
        reasons: why the others stay, by path or by what a function is called.
        functions: the paths of the modules that call batch norm as a function.
        shared: the paths of the modules whose calls need different weights.
        changed: the paths of the batch norms that stay and compute another map.
    """

    network: nn.Module
    folded: Mapping[str, Folded]
    reasons: Mapping[str, str]
    functions: frozenset[str]
    shared: frozenset[str]
    changed: frozenset[str]


def settle(network: nn.Module, courses: list[Course], kept: Mapping[str, str]) -> Settled:
    """Folds what can be folded, and shows that it is right.

    Args:
        network: what was observed; it is not changed.
        courses: every course of it.
        kept: modules that may not change, by path, with the reason.

    Raises:
        Refusal: no changes were found that are right in every course.
    """
    frozen = dict(kept)
    for _ in range(_ROUNDS):
        translation = Translation()
        for course in courses:
            translation.write(course, ATEN)
        aside = {slot for course in courses for slot in course.aside}
        bindings = bind(translation, courses, frozen, aside)
        outcome = fold_nodes(translation.model, translation.fixed)
        try:
            edits = edits_of(translation, bindings, outcome.changed)
            edited = twin(network)
            apply(edited, edits)
            result = twin(edited)  # before it is run, which may leave things behind
            if edits.gone or edits.changed:
                prove(edited, courses, bindings, edits, whole)
        except Disagreement as disagreement:
            frozen |= disagreement.frozen
            continue
        except Unproved as unproved:
            frozen |= _suspects(unproved, frozen, bindings)
            continue
        return _settled(result, outcome.report, (translation, bindings), edits, frozen)
    raise Refusal("its modules are used in too many ways at once")


def _suspects(unproved: Unproved, frozen: Mapping[str, str], bindings: Bindings) -> dict[str, str]:
    """What is not tried again after an edit that did not do what it should."""
    path = unproved.path
    if path is not None and path not in frozen:
        return {path: str(unproved)}
    paths = {weights.weight[0] for weights in bindings.weights.values()} | set(bindings.norms)
    return dict.fromkeys(paths, str(unproved))


def _settled(
    network: nn.Module,
    report: FoldReport,
    written: tuple[Translation, Bindings],
    edits: Edits,
    frozen: Mapping[str, str],
) -> Settled:
    """The outcome of every batch norm that was observed."""
    translation, bindings = written
    path_of = {str(node.name): op.call.path for op, node in translation.nodes.items()}
    functions = {
        op.call.path
        for op in translation.nodes
        if plain(op.name) == "aten.batch_norm" and op.call.path not in bindings.norms
    }
    folded: dict[str, Folded] = {}
    reasons: dict[str, str] = {}
    for done in report.folded:
        path = path_of.get(done.site.batchnorm)
        if path is not None and path in edits.gone:
            folded.setdefault(path, done)
    for left in report.kept:
        path = path_of.get(left.site.batchnorm)
        if path is None or path in functions:  # its name stands for every such call
            path = left.site.batchnorm.partition(" [")[0]
        if path not in folded:
            reasons.setdefault(path, frozen.get(path, left.reason))
    shared = frozenset(path for path, reason in frozen.items() if reason == Disagreement.UNLIKE)
    return Settled(network, folded, reasons, frozenset(functions), shared, frozenset(edits.changed))
