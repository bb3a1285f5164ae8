"""The result of a comparison: numbers, where they came from, and the verdict that follows from them.

Nothing is judged while it is measured: a verdict is computed from the numbers each time it is asked for, so a
stored result can be judged again, also by narrower limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bn_deploy.errors import InputError
from bn_deploy.spec import ancestors
from bn_deploy.verify.certificate import Certificate
from bn_deploy.verify.flips import Budget
from bn_deploy.verify.localise import LayerParity, first_off
from bn_deploy.verify.reading import from_json, to_json
from bn_deploy.verify.scale import Scale
from bn_deploy.verify.tolerance import number_class
from bn_deploy.verify.tripwires import Trip

FORMAT = "bn-deploy-parity/2"

FACTOR = number_class("fp32").factor
"""How many times farther from float64 than the unfolded float32 network a float32 form may be."""


@dataclass(frozen=True)
class StageParity:
    """One form of the network against the float64 run of the trained one.

    Attributes:
        stage: which form.
        backend, provider: what ran it, as read back from the runtime.
        precision: the class of numbers that it computes in, one of tolerance.CLASSES.
        accuracy: share of the images that it gets right.
        max_abs, rms: largest and root-mean-square difference of a logit to float64.
        worst_image: index of the first image with the largest difference.
        finite: whether every logit was a finite number.
        budget: how many labels its errors may flip, and how many they did.
        flips: the images whose label flipped, the first of them.
        certificate: which labels provably cannot flip; None if that cannot be said.
        uncertified: why not, if so.
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
    budget: Budget
    flips: tuple[int, ...] = ()
    certificate: Certificate | None = None
    uncertified: str = ""


@dataclass(frozen=True)
class StepParity:
    """A form against the one that it was made from.

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

    @property
    def name(self) -> str:
        """Such as "converted/folded"."""
        return f"{self.before}/{self.after}"


@dataclass(frozen=True)
class Limits:
    """What a user asks for on top of the gate; None asks for nothing.

    Attributes:
        max_abs: the largest difference of a logit to float64.
        min_agreement: the smallest share of images with the same label as float64.
    """

    max_abs: float | None = None
    min_agreement: float | None = None


@dataclass(frozen=True)
class Parity:
    """The comparison of all forms of one network.

    Attributes:
        images: how many images were compared.
        scales: how far rounding takes the unfolded network, for each class of numbers that a form is in.
        stages: each form against float64, in order.
        steps: each form against the one that it was made from.
        trips: tripwires that tripped, before anything was compared.
        layers: each form layer by layer, if that was asked for.
        limits: what the user asked for on top.
        unavailable: forms that could not be run here, each with the reason.
        digests: SHA-256 of each file that took part, by kind.
        dataset: name of the data.
        environment: the machine and the versions, as in a latency record.
    """

    images: int
    scales: tuple[Scale, ...]
    stages: tuple[StageParity, ...]
    steps: tuple[StepParity, ...]
    trips: tuple[Trip, ...] = ()
    layers: tuple[LayerParity, ...] = ()
    limits: Limits = Limits()
    unavailable: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    dataset: str = ""
    environment: dict[str, Any] = field(default_factory=dict)

    def scale(self, stage: StageParity) -> Scale:
        """What a form is measured by."""
        return next(scale for scale in self.scales if scale.precision == stage.precision)

    @property
    def rms_trained(self) -> float:
        """The trained network's own distance to its float64 run."""
        return self.stages[0].rms

    @property
    def bound(self) -> float:
        """The largest root-mean-square distance to float64 that passes in the trained form's class."""
        return self.scale(self.stages[0]).allowed

    def faults(self, stage: StageParity) -> Iterator[str]:
        """Everything that is wrong with a form, in words, each with the number and the bound."""
        for trip in self.trips:
            if trip.stage == stage.stage:
                yield f"{trip.wire}: {trip.seen}"
        if not stage.finite:
            yield f"NaN or infinity among the logits, first at image {stage.worst_image}"
        scale = self.scale(stage)
        own = stage is self.stages[0] and scale.draws > 0 and not scale.partly
        allowed = number_class(scale.precision).factor * scale.drawn if own else scale.allowed
        if stage.finite and not stage.rms <= allowed and (own or stage is not self.stages[0]):
            source = f"the farthest of {scale.draws} drawn runs" if own else scale.source
            yield (
                f"rms to float64 {stage.rms:.2e}, allowed {allowed:.2e} = {source}; "
                f"worst image {stage.worst_image}"
            )
        certificate = stage.certificate
        if stage.finite and certificate is not None and not certificate.excess <= 1:
            yield (
                f"image {certificate.worst_image} is {certificate.excess:.3g} times farther off than "
                f"rounding in {stage.precision} can take it"
            )
        if self.limits.max_abs is not None and not stage.max_abs <= self.limits.max_abs:
            yield (
                f"largest difference {stage.max_abs:.2e}, --max-abs {self.limits.max_abs:g}; "
                f"worst image {stage.worst_image}"
            )
        agreement = 1 - stage.budget.observed / self.images
        if self.limits.min_agreement is not None and agreement < self.limits.min_agreement:
            yield (
                f"{agreement:.6f} of the labels agree with float64, "
                f"--min-agreement {self.limits.min_agreement:g}"
            )

    def passes(self, stage: StageParity) -> bool:
        """Whether nothing is wrong with a form."""
        return next(self.faults(stage), None) is None

    @property
    def failed(self) -> str | None:
        """The first step that broke the network, such as "converted/folded", or None if none did.

        It is the first step to a failing form whose own difference is more than the rounding of its two
        sides; if each step is small and only their sum is not, the first step to a failing form. A fault of
        the trained form itself is named "trained".
        """
        bad = {stage.stage for stage in self.stages if not self.passes(stage)}
        if not bad:
            return None
        if self.stages[0].stage in bad:
            return self.stages[0].stage
        steps = [step for step in self.steps if step.after in bad]
        own = [step for step in steps if self._breaks(step)]
        return (own or steps)[0].name

    def _breaks(self, step: StepParity) -> bool:
        """Whether a step's own difference is more than the independent rounding of its two sides."""
        by_name = {stage.stage: stage for stage in self.stages}
        sides = (self.scale(by_name[step.before]).allowed, self.scale(by_name[step.after]).allowed)
        return not step.rms <= math.hypot(*sides) or not math.isfinite(by_name[step.after].rms)

    @property
    def exit_code(self) -> int:
        """0 if every form that ran passes, else 1."""
        return 0 if self.failed is None else 1

    def first_layer(self, stage: StageParity) -> str | None:
        """The first layer of a form that is off, or None if none is or nobody looked."""
        return first_off(row for row in self.layers if row.stage == stage.stage)

    def judged_by(self, limits: Limits) -> Parity:
        """The same numbers under the user's limits; where these say nothing, the recorded ones stay."""
        kept = {
            "max_abs": self.limits.max_abs if limits.max_abs is None else limits.max_abs,
            "min_agreement": self.limits.min_agreement
            if limits.min_agreement is None
            else limits.min_agreement,
        }
        return replace(self, limits=Limits(**kept))

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object; an infinite distance becomes null."""
        verdict = {stage.stage: list(self.faults(stage)) for stage in self.stages}
        derived = {"format": FORMAT, "failed": self.failed, "faults": verdict}
        bounds = {
            scale.precision: {"allowed": scale.allowed, "source": scale.source} for scale in self.scales
        }
        written: dict[str, Any] = to_json(self)
        return {**derived, "bounds": to_json(bounds), **written}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Parity:
        """Reads what `to_json` wrote. The verdict is not read but follows again from the numbers.

        Raises:
            InputError: the object is not of this format.
        """
        if value.get("format") != FORMAT:
            raise InputError(f"not in the format {FORMAT}; run `bn-deploy verify` again")
        derived = ("format", "failed", "faults", "bounds")
        try:
            parity = from_json(cls, {name: one for name, one in value.items() if name not in derived})
            for stage in parity.stages:
                number_class(stage.precision), parity.scale(stage)
        except (KeyError, TypeError, StopIteration, InputError) as error:
            raise InputError(f"damaged {FORMAT}: {error}") from error
        names = [stage.stage for stage in parity.stages]
        if not names or [(step.before, step.after) for step in parity.steps] != list(chain(names)):
            raise InputError(f"damaged {FORMAT}: its steps are not those between its stages")
        if parity.images < 1 or not math.isfinite(parity.rms_trained):
            raise InputError(f"damaged {FORMAT}: {parity.images} images, rms_trained is {parity.rms_trained}")
        return parity


def chain(names: list[str]) -> Iterator[tuple[str, str]]:
    """The steps between forms: each with the nearest one that is there of those that it was made from."""
    for index, name in enumerate(names[1:], 1):
        near = (before for before in ancestors(name) if before in names[:index])
        yield (next(near, names[index - 1]), name)
