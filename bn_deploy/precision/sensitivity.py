"""The keep-list: which operators stay wider, by what each alone does to the network's outputs.

The cost of an operator is what it does when it alone is narrow: the root-mean-square error of the outputs,
relative to how much these vary from image to image, in units of the format. Roundings of different operators
are independent, so their costs add up as squares. The costliest stay wider until the rest together cost at
most 2^BITS units. First and last layers have no rule of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import hypot
from typing import Any

import numpy as np
import onnx

from bn_deploy.errors import ModelError
from bn_deploy.precision.emulate import emulated
from bn_deploy.precision.formats import Half
from bn_deploy.precision.graph import FLOAT, computed, labels, opened
from bn_deploy.precision.half import convert
from bn_deploy.precision.quantize import quantized
from bn_deploy.precision.runtime import METHODS, Array, ranges, run, stream
from bn_deploy.spec import Track

BITS = 4
"""How many bits of the format all narrow operators together may cost at the outputs: fp16 then keeps 7 of
its 11, bfloat16 and int8 4 of their 8. Chosen; whether it suffices, the accuracy of each file shows."""

HEADROOM = 2.0
"""How many times farther than calibration images others may reach."""

INT8_UNIT = 2.0**-8
"""Half a step of int8, relative to the range: 1/254."""

_CUTTING = 1 / 0.9
"""What the error of a calibrator that cuts is multiplied by before calibrators are compared."""

MEASURED = 128
"""Over how many of the calibration images costs are measured."""


@dataclass(frozen=True)
class Cost:
    """What one operator alone does when it is narrow.

    Attributes:
        node: its name.
        operator: its type.
        precision: the format that it was tried in.
        largest: the largest magnitude that it gives out on calibration images.
        error: root mean square of what it does to the network's outputs, relative to their variation.
    """

    node: str
    operator: str
    precision: str
    largest: float
    error: float

    def to_json(self) -> dict[str, Any]:
        """The cost as a JSON object; an infinite error becomes null."""
        return {**asdict(self), "error": self.error if np.isfinite(self.error) else None}


class Outputs:
    """The outputs of the float32 network on calibration images, and how far another model is from them.

    Args:
        proto: the float32 model.
        images: (N, ...), what goes in.
    """

    def __init__(self, proto: onnx.ModelProto, images: Array) -> None:
        self.images = images
        kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
        self.names = [v.name for v in proto.graph.output if v.type.tensor_type.elem_type in kinds]
        if not self.names:
            raise ModelError("the network gives out no floating-point numbers, so nothing can be measured")
        self._exact = {name: _wide(array) for name, array in run(proto, images, self.names).items()}

    def error(self, proto: onnx.ModelProto) -> float:
        """The largest relative error of an output; infinite where there is NaN or infinity."""
        return max(
            _relative(self._exact[name], _wide(array))
            for name, array in run(proto, self.images, self.names).items()
        )


def _wide(array: Array) -> Array:
    return np.asarray(array, np.float64)


def _relative(exact: Array, other: Array) -> float:
    """Error over variation from row to row; over size where nothing varies."""
    if not np.isfinite(other).all():
        return float("inf")
    varies = float(np.sqrt(np.square(exact - exact.mean(axis=0)).mean()))
    size = varies or float(np.sqrt(np.square(exact).mean())) or 1.0
    return float(np.sqrt(np.square(other - exact).mean())) / size


def spread(images: Array) -> Array:
    """At most MEASURED of the images, evenly spread."""
    return np.asarray(images[np.linspace(0, len(images) - 1, min(MEASURED, len(images))).astype(int)])


def half_costs(proto: onnx.ModelProto, half: Half, images: Array, track: Track) -> list[Cost]:
    """The cost of every operator that can be half, in the order of the graph.

    Args:
        proto: the float32 model.
        half: the format.
        images: (N, ...) of the training split.
        track: follows the operators.
    """
    model = opened(proto)
    names, numeric = labels(model.graph), computed(model.graph)
    given = {
        names[node]: (node.op_type, [v.name for v in node.outputs if v.name and v.dtype == FLOAT])
        for node in model.graph
    }
    reach = _reach(
        proto,
        [str(v.name) for n in model.graph for v in n.outputs if v in numeric and v.dtype == FLOAT],
        images,
    )
    outputs = Outputs(proto, spread(images))
    every = convert(proto, half, {})
    tried = [name for name, (_, values) in given.items() if values and name not in every.kept]

    def alone(name: str) -> onnx.ModelProto:
        others = {other: "not this one" for other in given if other != name}
        return emulated(convert(proto, half, others).proto)

    costs = []
    for name in track(tried, f"measuring {half.precision.value}", len(tried)):
        operator, values = given[name]
        largest = max((reach[str(value)] for value in values if value in reach), default=0.0)
        costs.append(Cost(name, operator, half.precision.value, largest, _tried(outputs, alone, name)))
    return costs


def _tried(outputs: Outputs, alone: Callable[[str], onnx.ModelProto], name: str) -> float:
    """The error of the outputs when one operator is narrow; infinite if the network does not run that way."""
    try:
        return outputs.error(alone(name))
    except ModelError:
        return float("inf")


def _reach(proto: onnx.ModelProto, values: Sequence[str], images: Array) -> dict[str, float]:
    """The largest magnitude of each value; infinite where there is NaN."""
    found = dict.fromkeys(values, 0.0)
    for part in stream(proto, images, values):
        for name, array in part.items():
            largest = float(np.abs(array).max(initial=0.0))
            found[name] = max(found[name], float("inf") if np.isnan(largest) else largest)
    return found


@dataclass(frozen=True)
class Calibrated:
    """Ranges of activations, and why they are those.

    Attributes:
        method: the calibrator, of METHODS.
        ranges: the largest magnitude of each activation.
        errors: what the network costs with every operator in int8, by calibrator.
    """

    method: str
    ranges: dict[str, float]
    errors: dict[str, float]


def calibrated(proto: onnx.ModelProto, able: Iterable[str], images: Array) -> Calibrated:
    """The ranges of the calibrator with which the network, all of `able` in int8, is nearest to float32.

    A calibrator that cuts must be better than the largest magnitudes by a tenth: on images that calibration
    has not seen it cuts more.
    """
    outputs, nodes = Outputs(proto, spread(images)), tuple(able)
    found = {method: ranges(proto, images, method) for method in METHODS}
    errors = {method: outputs.error(quantized(proto, found[method], nodes)) for method in METHODS}
    best = min(METHODS, key=lambda method: errors[method] * (1.0 if method == METHODS[0] else _CUTTING))
    return Calibrated(best, found[best], errors)


def int8_costs(
    proto: onnx.ModelProto,
    able: Mapping[str, str],
    known: Mapping[str, float],
    images: Array,
    track: Track,
) -> list[Cost]:
    """The cost of every node that can be quantised; arguments as in quantize.py."""
    outputs = Outputs(proto, spread(images))
    kinds = {name: node.op_type for node, name in labels(opened(proto).graph).items()}
    return [
        Cost(
            name,
            kinds[name],
            "int8",
            known.get(able[name], 0.0),
            _tried(outputs, lambda one: quantized(proto, known, [one]), name),
        )
        for name in track(list(able), "measuring int8", len(able))
    ]


def keep(costs: Sequence[Cost], unit: float, largest: float = float("inf")) -> dict[str, str]:
    """The operators that stay wider, each with the reason: what leaves the range, then the costliest.

    Args:
        costs: of all operators that could be narrow.
        unit: of the format.
        largest: the end of the format's range.
    """
    kept = {
        cost.node: f"reaches {cost.largest:.3g} on calibration images, and others may reach {HEADROOM:g} "
        f"times farther; {cost.precision} ends at {largest:.3g}"
        for cost in costs
        if not cost.largest * HEADROOM <= largest
    }
    budget = 2.0**BITS * unit
    rest = sorted((cost for cost in costs if cost.node not in kept), key=lambda cost: cost.error)
    together = 0.0
    for index, cost in enumerate(rest):
        together = hypot(together, cost.error)
        if not together <= budget:
            for late in rest[index:]:
                kept[late.node] = _expensive(late, budget)
            break
    return kept


def _expensive(cost: Cost, budget: float) -> str:
    """Why an operator stays wider that costs too much."""
    if not np.isfinite(cost.error):
        return f"alone in {cost.precision} it makes NaN or infinity of the outputs"
    return (
        f"alone in {cost.precision} it changes the outputs by {cost.error:.2%} of their variation, where all "
        f"that is narrow may cost {budget:.2%}"
    )
