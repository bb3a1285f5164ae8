"""What a form is measured by."""

from __future__ import annotations

from dataclasses import dataclass

from bn_deploy.verify.tolerance import number_class


@dataclass(frozen=True)
class Scale:
    """How far rounding alone takes the unfolded network from float64, in one class of numbers.

    Attributes:
        precision: the class.
        of: the form that is that network.
        measured: root mean square over all images of one run in that class.
        drawn: the largest root mean square of the runs whose roundings were drawn at random; 0 without any.
        draws: how many such runs there were.
        drawn_images: over how many images.
        partly: whether only the parameters' roundings were drawn: then they cannot judge the form itself.
        undrawn: why there were none, if so.
    """

    precision: str
    of: str
    measured: float
    drawn: float = 0.0
    draws: int = 0
    drawn_images: int = 0
    partly: bool = False
    undrawn: str = ""

    @property
    def allowed(self) -> float:
        """The largest root-mean-square distance to float64 that passes."""
        return number_class(self.precision).factor * max(self.measured, self.drawn)

    @property
    def source(self) -> str:
        """Where `allowed` comes from, in words."""
        factor = f"{number_class(self.precision).factor:g} x"
        if self.drawn > self.measured:
            return (
                f"{factor} {self.drawn:.2e}, the farthest of {self.draws} runs of the {self.of} network with "
                f"{self.precision} roundings drawn at random"
            )
        return f"{factor} {self.measured:.2e}, the {self.of} network's own in {self.precision}"
