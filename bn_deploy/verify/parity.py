"""The result of a comparison: numbers, where they came from, and the verdict that follows from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from bn_deploy.errors import InputError

FORMAT = "bn-deploy-parity/1"

FACTOR = 2.0
"""How many times farther from float64 than the trained float32 network a float32 form may be."""


@dataclass(frozen=True)
class StageParity:
    """One form of the network against the float64 run of the trained one.

    Attributes:
        stage: which form.
        backend, provider, precision: what ran it, as read back from the runtime.
        accuracy: share of the images that it gets right.
        max_abs, rms: largest and root-mean-square difference of a logit to float64.
        worst_image: index of the image with the largest difference.
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
        not_run: forms that could not be run here, each with the reason.
        digests: SHA-256 of each file that took part, by kind.
        dataset: name of the data.
    """

    images: int
    rms_trained: float
    stages: tuple[StageParity, ...]
    steps: tuple[StepParity, ...]
    not_run: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    dataset: str = ""

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
        for before, after in zip(self.stages, self.stages[1:], strict=False):
            if not self.passes(after):
                return f"{before.stage}/{after.stage}"
        return None

    @property
    def exit_code(self) -> int:
        """0 if every form that ran passes, else 1."""
        return 0 if self.failed is None else 1

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object; a distance that is not finite becomes null."""
        value = {"format": FORMAT, "factor": FACTOR, "bound": self.bound, "failed": self.failed, **asdict(self)}
        for row in (*value["stages"], *value["steps"]):
            row.update({k: None for k, v in row.items() if isinstance(v, float) and not math.isfinite(v)})
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Parity:
        """Reads what `to_json` wrote.

        Raises:
            InputError: the object is not of this format.
        """
        if value.get("format") != FORMAT:
            raise InputError(f"not in the format {FORMAT}")
        try:
            return cls(
                images=value["images"],
                rms_trained=value["rms_trained"],
                stages=tuple(StageParity(**_restored(row)) for row in value["stages"]),
                steps=tuple(StepParity(**_restored(row)) for row in value["steps"]),
                not_run=dict(value["not_run"]),
                digests=dict(value["digests"]),
                dataset=value["dataset"],
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"damaged {FORMAT}: {error}") from error


def _restored(row: dict[str, Any]) -> dict[str, Any]:
    return {k: math.inf if v is None and k in ("max_abs", "rms") else v for k, v in row.items()}
