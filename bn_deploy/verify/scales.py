"""How far rounding alone takes the unfolded network, gathered while images stream by."""

from __future__ import annotations

import math

from bn_deploy.backends.base import Array
from bn_deploy.verify.difference import Difference
from bn_deploy.verify.evidence import Evidence, Form, Reference
from bn_deploy.verify.scale import Scale
from bn_deploy.verify.tolerance import number_class

DRAWN_IMAGES = 500
"""Over about how many images the runs with drawn roundings go: on more the measured run is not lucky."""


class Scales:
    """One scale for each class of numbers that a form is in.

    Args:
        known: the drawn runs and the runs in other classes.
        reference: images -> logits in float64.
        unfolded: the first form, whose own run sets the scale of its own class.
        classes: which classes are needed.

    Raises:
        InputError: a class has no rule.
    """

    def __init__(self, known: Evidence, reference: Reference, unfolded: Form, classes: set[str]) -> None:
        for name in classes:
            number_class(name)  # refused before anything runs
        self.classes = sorted(classes)
        self._known, self._reference, self._unfolded = known, reference, unfolded
        self._measured = {name: Difference() for name in self.classes if self._runs(name)}
        self._draws = {name: [Difference() for _ in known.draws.get(name, ())] for name in self.classes}
        self._images = 0

    def _runs(self, name: str) -> bool:
        return name == self._unfolded.precision or name in self._known.baselines

    def add(self, images: Array, exact: Array, first: int, *, drawn: bool, logits: Array) -> None:
        """Takes in a batch.

        Args:
            images: (n, ...).
            exact: (n, classes) in float64.
            first: the index of the first image.
            drawn: whether the runs with drawn roundings see it.
            logits: (n, classes) of the unfolded form.
        """
        for name, difference in self._measured.items():
            own = name == self._unfolded.precision
            difference.add(exact, logits if own else self._known.baselines[name](images), first)
        if drawn:
            self._images += len(images)
            for name, differences in self._draws.items():
                for draw, difference in zip(self._known.draws.get(name, ()), differences, strict=True):
                    difference.add(exact, draw(images), first)

    def result(self) -> tuple[Scale, ...]:
        """The scales."""
        return tuple(
            Scale(
                name,
                self._unfolded.name,
                self._measured[name].rms if name in self._measured else 0.0,
                max((difference.rms for difference in self._draws[name]), default=0.0),
                len(self._draws[name]),
                self._images if self._draws[name] else 0,
                self._known.partly,
                "" if self._draws[name] else self._known.undrawn,
            )
            for name in self.classes
        )

    def on_probes(self, images: Array) -> dict[str, float]:
        """How much (root mean square) two evaluations of one of these images may differ, by class.

        Each may be as far from float64 as the gate allows. The gate is about all images together, and one of
        them alone may have all of it.
        """
        other = Scales(self._known, self._reference, self._unfolded, set(self.classes))
        exact = self._reference(images)
        other.add(images, exact, 0, drawn=True, logits=self._unfolded.run(images))
        return {s.precision: 2 * s.allowed * math.sqrt(len(images)) for s in other.result()}
