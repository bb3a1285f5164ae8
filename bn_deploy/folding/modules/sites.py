"""The batch norms of a network: what they are called, why some stay in any case, and what became of each."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.convert import native_of
from bn_deploy.batchnorm.flavours import NATIVE, Found, find, suspects
from bn_deploy.batchnorm.tensors import widest_dtype
from bn_deploy.errors import CheckFailed, ModelError
from bn_deploy.folding.modules.course import Course, Value
from bn_deploy.folding.modules.settle import Settled
from bn_deploy.folding.modules.surgery import Shift
from bn_deploy.folding.outcome import FoldReport, Kept, Site

_TRAINING = "it is in training mode, where its output depends on the batch; call .eval() first"


class Sites:
    """The batch norms of a network.

    Attributes:
        flavours: the flavour of each, by path.
        kept: the reason for those that are not even tried.
        swapped: those of another flavour than torch's.
        doubted: what speaks against those that only look like one, unless their forward says otherwise.
    """

    def __init__(self, network: nn.Module) -> None:
        self.flavours: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.swapped: dict[str, Found] = {}
        for found in find(network):
            if isinstance(found.module, Shift):
                continue  # what an earlier fold has left
            self.flavours[found.path] = found.flavour.name
            if (reason := _unusable(found)) is not None:
                self.kept[found.path] = reason
            elif found.flavour is not NATIVE:
                self.swapped[found.path] = found
        self.doubted = {path: reason for path, reason in suspects(network) if path not in self.flavours}
        for path in self.doubted:
            layer = network.get_submodule(path)
            self.flavours[path] = type(layer).__name__
            if native.is_relative(layer) and layer.training:
                self.kept[path] = _TRAINING

    def keep_converting(self, courses: list[Course]) -> bool:
        """Keeps those that give another type than they get, as torch's do not; tells whether any did."""
        found = False
        for op in (op for course in courses for op in course.ops if op.call.path in self.swapped):
            given, held = op.arguments.get("input"), widest_dtype(self.swapped[op.call.path].module)
            if isinstance(given, Value) and given.dtype is not held:
                self.kept[op.call.path] = f"it computes in {held}, what feeds it in {given.dtype}"
                found = True
        self.swapped = {path: one for path, one in self.swapped.items() if path not in self.kept}
        return found

    def keep_swapped(self, reason: str) -> None:
        """Keeps all that are of another flavour than torch's."""
        self.kept.update(dict.fromkeys(self.swapped, reason))
        self.swapped = {}

    def all_kept(self, reason: str) -> FoldReport:
        """The report when nothing can be folded."""
        reasons = {**dict.fromkeys(self.flavours, reason), **self.doubted, **self.kept}
        return FoldReport((), tuple(Kept(Site(path), why) for path, why in reasons.items()))

    def report(self, settled: Settled) -> FoldReport:
        """The outcome of each."""
        folded = tuple(
            replace(done, site=Site(path, done.site.producer), flavour=self.flavours.get(path, "torch"))
            for path, done in settled.folded.items()
        )
        never = dict.fromkeys(self.flavours, "it is never called in the forward that was observed")
        reasons = {**never, **self.doubted, **settled.reasons, **self.kept}
        kept = tuple(Kept(Site(path), why) for path, why in reasons.items() if path not in settled.folded)
        return FoldReport(folded, kept)

    def check(self, result: nn.Module, report: FoldReport) -> None:
        """Compares a report with the network that it is about.

        Raises:
            CheckFailed: a batch norm has no outcome, or is said to be gone and is there.
        """
        folded = {entry.site.batchnorm for entry in report.folded}
        kept = {entry.site.batchnorm for entry in report.kept}
        left = {path for path, layer in result.named_modules() if native.matches(layer)}
        lost = self.flavours.keys() - folded - kept
        if lost or left - kept:
            raise CheckFailed(f"batch norms without an outcome: {sorted(lost | (left - kept))} in {report}")


def _unusable(found: Found) -> str | None:
    """Why a batch norm is no affine map, if it is none."""
    if found.module.training:
        return _TRAINING
    try:
        found.params().affine()
        if found.flavour is not NATIVE:
            native_of(found)
    except (ValueError, ModelError) as error:
        return str(error)
    return None
