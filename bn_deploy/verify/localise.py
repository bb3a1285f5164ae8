"""Which layer is the first that is off: every layer of a form against the same layer in float64."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bn_deploy.backends.base import Array
from bn_deploy.verify.tolerance import number_class


@dataclass(frozen=True)
class LayerParity:
    """One layer of one form against float64.

    Attributes:
        stage: the form.
        layer: the layer's path.
        rms: root-mean-square difference of its output to the trained network's in float64.
        own: the same of the trained network itself, as it runs.
        size: root mean square of that output.
        precision: the class of numbers of the form.
        how: how its output was got at, in words.
    """

    stage: str
    layer: str
    rms: float
    own: float
    size: float
    precision: str
    how: str

    @property
    def off(self) -> bool:
        """Whether it is farther from float64 than the gate would allow at the end of the network."""
        return not self.rms <= number_class(self.precision).factor * self.own


def layers(
    stage: str,
    precision: str,
    how: str,
    *,
    exact: Mapping[str, Array],
    own: Mapping[str, Array],
    seen: Mapping[str, Array],
) -> list[LayerParity]:
    """The layers that a form and the trained network both have, by name, in the trained network's order.

    Args:
        stage: the form.
        precision: its class of numbers.
        how: how its layers were got at.
        exact: the output of each layer of the trained network in float64.
        own: the same as the trained network runs, in the form's class of numbers.
        seen: the output of each layer of the form.
    """
    return [
        LayerParity(
            stage,
            layer,
            _rms(seen[layer] - value),
            _rms(own[layer] - value),
            _rms(value),
            precision,
            how,
        )
        for layer, value in exact.items()
        if layer in seen and seen[layer].shape == value.shape
    ]


def first_off(rows: Iterable[LayerParity]) -> str | None:
    """The first layer from which on every layer is off, or None if the last one is not.

    Folding changes what layers give between the place that a batch norm goes to and the place where it stood;
    what agrees again behind them was no fault.
    """
    first = None
    for row in rows:
        if not row.off:
            first = None
        elif first is None:
            first = row.layer
    return first


def _rms(value: Array) -> float:
    with np.errstate(invalid="ignore", over="ignore"):
        return float(np.nan_to_num(np.sqrt(np.mean(np.square(value, dtype=np.float64))), nan=np.inf))
