"""The result of a comparison: numbers, where they came from, and the verdict that follows from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, TypeVar

from bn_deploy.errors import InputError

FORMAT = "bn-deploy-parity/1"

FACTOR = 2.0
"""How many times farther from float64 than the trained float32 network a float32 form may be."""


_DISTANCES = ("max_abs", "rms")
_SCALARS: dict[str, type] = {kind.__name__: kind for kind in (bool, int, float, str)}

T = TypeVar("T")


@dataclass(frozen=True)
class StageParity:
    """One form of the network against the float64 run of the trained one.

    Attributes:
        stage: which form.
        backend, provider, precision: what ran it, as read back from the runtime.
        accuracy: share of the images that it gets right.
        max_abs, rms: largest and root-mean-square difference of a logit to float64.
        worst_image: index of the first image with the largest difference.
        finite: whether every logit was a finite number.
    """

    stage: str
    backend: str
    provider: str
    precision: str
    accuracy: float
    max_abs: float
    rms: float
    worst_image: int
    finite: bool


@dataclass(frozen=True)
class StepParity:
    """Two neighbouring forms against each other.

    Attributes:
        before, after: the two forms.
        max_abs, rms: largest and root-mean-square difference of a logit.
        worst_image: index of the image with the largest difference.
        agree: how many of the `images` get the same label from both.
        images: how many were compared.
    """

    before: str
    after: str
    max_abs: float
    rms: float
    worst_image: int
    agree: int
    images: int


@dataclass(frozen=True)
class Parity:
    """The comparison of all forms of one network.

    Attributes:
        images: how many images were compared.
        rms_trained: the trained float32 network's distance to its own float64 run.
        stages: each form against float64, in order.
        steps: each form against the one before it.
        unavailable: forms that could not be run here, each with the reason.
        digests: SHA-256 of each file that took part, by kind.
        dataset: name of the data.
        environment: the machine and the versions, as in a latency record.
    """

    images: int
    rms_trained: float
    stages: tuple[StageParity, ...]
    steps: tuple[StepParity, ...]
    unavailable: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    dataset: str = ""
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        """The largest RMS distance to float64 that passes: FACTOR times the trained network's own."""
        return FACTOR * self.rms_trained

    def passes(self, stage: StageParity) -> bool:
        """Whether a form is no farther from float64 than rounding explains."""
        return stage.finite and stage.rms <= self.bound

    @property
    def failed(self) -> str | None:
        """The first step that broke the network, such as "converted/folded", or None if none did.

        The trained form sets the bound and cannot fail against it.
        """
        for before, after in pairwise(self.stages):
            if not self.passes(after):
                return f"{before.stage}/{after.stage}"
        return None

    @property
    def exit_code(self) -> int:
        """0 if every form that ran passes, else 1."""
        return 0 if self.failed is None else 1

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object; an infinite distance becomes null."""
        derived = {"format": FORMAT, "factor": FACTOR, "bound": self.bound, "failed": self.failed}
        rows = {"stages": [*map(_finite, self.stages)], "steps": [*map(_finite, self.steps)]}
        return {**derived, **asdict(self), **rows}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Parity:
        """Reads what `to_json` wrote. The verdict is not read but follows again from the numbers.

        Raises:
            InputError: the object is not of this format.
        """
        if value.get("format") != FORMAT:
            raise InputError(f"not in the format {FORMAT}")
        try:
            parity = cls(
                images=_typed(int, value["images"]),
                rms_trained=_typed(float, value["rms_trained"]),
                stages=tuple(_row(StageParity, row) for row in _typed(list, value["stages"])),
                steps=tuple(_row(StepParity, row) for row in _typed(list, value["steps"])),
                unavailable=_texts(value["unavailable"]),
                digests=_texts(value["digests"]),
                dataset=_typed(str, value["dataset"]),
                environment=_typed(dict, value["environment"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"damaged {FORMAT}: {error}") from error
        chained = [(a.stage, b.stage) for a, b in pairwise(parity.stages)]
        if not chained or chained != [(step.before, step.after) for step in parity.steps]:
            raise InputError(f"damaged {FORMAT}: its steps are not those between its stages")
        if not math.isfinite(parity.rms_trained):
            raise InputError(f"damaged {FORMAT}: rms_trained is {parity.rms_trained}")
        return parity


def _finite(row: StageParity | StepParity) -> dict[str, Any]:
    """A row as a JSON object, which has no infinity."""
    value = asdict(row)
    return {**value, **{name: None for name in _DISTANCES if math.isinf(value[name])}}


def _row(kind: type[T], row: Any) -> T:
    """A StageParity or StepParity from its JSON object."""
    values = dict(_typed(dict, row))
    values.update({name: math.inf for name in _DISTANCES if values[name] is None})
    made = kind(**values)
    for known in fields(made):  # type: ignore[arg-type]  # both kinds are dataclasses
        _typed(_SCALARS[str(known.type)], values[known.name])
    return made


def _texts(value: Any) -> dict[str, str]:
    return {key: _typed(str, text) for key, text in _typed(dict, value).items()}


def _typed(kind: type[T], value: Any) -> T:
    """`value`, which must be exactly of type `kind`: JSON's true is no number."""
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, found a {type(value).__name__}")
    return value
