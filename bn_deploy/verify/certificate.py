"""The flip certificate: which labels provably cannot change, whatever the order of a runtime's roundings.

An image is proven when its label in float64, of the trained network and of the form's own numbers alike,
leads by more than rounding can move any difference of its logits. What cannot be proven is at risk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from bn_deploy.backends.base import Array

LISTED = 1000
"""How many images at risk a certificate lists at most; it counts all."""

STRICT, FIRST_ORDER = "strict", "first-order"


@dataclass(frozen=True)
class Certified:
    """What is known of a batch of n images.

    Attributes:
        logits: (n, classes) of the form's own numbers in float64.
        bound: (n, classes) how far rounding may take each logit, by the strict bound.
        margin: (n,) by how much the first label leads.
        reach: (n,) how far rounding may take the difference of the first label and the one that comes nearest
            to it; an image is safe if `margin` is more.
        strictly: (n,) whether the strict bound proves it.
        safe: (n,) whether it is proven.
    """

    logits: Array
    bound: Array
    margin: Array
    reach: Array
    strictly: Array
    safe: Array


Certifier = Callable[[Array], Certified]
"""Images (n, ...) -> what is known of them."""


@dataclass(frozen=True)
class AtRisk:
    """An image whose label is not proven.

    Attributes:
        image: its index.
        margin: by how much its first label leads in float64.
        bound: how far rounding may move that lead.
    """

    image: int
    margin: float
    bound: float


@dataclass(frozen=True)
class Certificate:
    """What is proven of one form over all images.

    Attributes:
        method: the bound that was used where the strict one does not suffice.
        images: how many there are.
        proven: how many labels cannot flip.
        strictly: how many of them by the strict bound, which neglects nothing.
        at_risk: the others, the first `LISTED` of them.
        excess: the largest measured error of a logit in units of its strict bound; at most 1 if the runtime
            computes what it says.
        worst_image: where that is.
    """

    method: str
    images: int
    proven: int
    strictly: int
    at_risk: tuple[AtRisk, ...]
    excess: float
    worst_image: int


@dataclass
class CertificateTally:
    """Puts a certificate together from a stream of images."""

    method: str
    images: int = 0
    proven: int = 0
    strictly: int = 0
    at_risk: list[AtRisk] = field(default_factory=list)
    excess: float = 0.0
    worst_image: int = 0

    def add(self, certified: Certified, exact: Array, logits: Array, first_image: int) -> None:
        """Takes in a batch: the trained network's logits in float64 and the form's as measured."""
        own = certified.logits.argmax(axis=1) == exact.argmax(axis=1)
        safe = own & certified.safe
        self.images += len(exact)
        self.proven += int(safe.sum())
        self.strictly += int((own & certified.strictly).sum())
        for row in np.flatnonzero(~safe)[: max(0, LISTED - len(self.at_risk))]:
            margin, reach = float(certified.margin[row]), float(certified.reach[row])
            self.at_risk.append(AtRisk(first_image + int(row), margin, reach))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            error = np.abs(logits.astype(np.float64) - certified.logits)
            excess = np.where(error > 0, error / certified.bound, 0.0).max(axis=1)
        excess[~np.isfinite(logits).all(axis=1)] = np.inf
        if excess.max() > self.excess:
            self.excess, self.worst_image = float(excess.max()), first_image + int(excess.argmax())

    def result(self) -> Certificate:
        """The certificate of all images so far."""
        return Certificate(
            self.method,
            self.images,
            self.proven,
            self.strictly,
            tuple(self.at_risk),
            self.excess,
            self.worst_image,
        )
