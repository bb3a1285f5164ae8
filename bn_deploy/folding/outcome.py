"""What becomes of each batch norm: folded by a rule, or kept for a reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the graph driver reports without torch
    from torch import nn


@dataclass(frozen=True)
class Site:
    """Where a batch norm stands: its path and that of the layer that feeds it, if one was found."""

    batchnorm: str
    producer: str | None = None

    def __str__(self) -> str:
        batchnorm = self.batchnorm or "(the network itself)"
        return batchnorm if self.producer is None else f"{self.producer} -> {batchnorm}"


@dataclass(frozen=True)
class Folded:
    """A batch norm that is gone.

    Attributes:
        site: where it stood.
        rule: what removed it.
        flavour: whose batch norm it was.
        largest_scale: the largest |scale| that went into the weights.
        note: what was done besides, such as an own copy of a weight that several layers shared.
        warning: what the type of the weights does to the new numbers, if a person should know.
    """

    site: Site
    rule: str
    flavour: str
    largest_scale: float
    note: str | None = None
    warning: str | None = None

    def __str__(self) -> str:
        text = f"folded  {self.site}  by {self.rule}, {self.flavour}, largest scale {self.largest_scale:.3g}"
        note = "" if self.note is None else f", {self.note}"
        return text + note + ("" if self.warning is None else f"; warning: {self.warning}")


@dataclass(frozen=True)
class Kept:
    """A batch norm that stays, and why."""

    site: Site
    reason: str

    def __str__(self) -> str:
        return f"kept    {self.site}: {self.reason}"


@dataclass(frozen=True)
class FoldReport:
    """What became of each batch norm of a network.

    Attributes:
        folded: those that are gone.
        kept: those that stay, each with its reason.
    """

    folded: tuple[Folded, ...]
    kept: tuple[Kept, ...]

    def __str__(self) -> str:
        total = len(self.folded) + len(self.kept)
        head = f"batch norms {total} -> {len(self.kept)}"
        return "\n".join([head, *(f"  {entry}" for entry in (*self.folded, *self.kept))])

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class FoldResult:
    """A folded network and the report of what was done.

    Attributes:
        module: a new network; the one that was given is untouched.
        report: the outcome of each batch norm.
    """

    module: nn.Module
    report: FoldReport


class Refusal(Exception):
    """Ends the examination of one batch norm; its text becomes the reason in the report."""
