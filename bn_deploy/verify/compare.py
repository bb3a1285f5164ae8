"""Compares the forms of a network with each other and with a float64 run, over a whole test set.

The arbiter is float64, and no tolerance is typed by hand. A form passes when its root-mean-square distance to
float64 is at most `factor` times what rounding does to the unfolded network in the same class of numbers:
what it did in the run that was measured, or in the farthest of a few runs whose roundings are drawn at
random, whichever is more. On many images the two agree; on few, one run may be lucky by several times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bn_deploy.backends.base import Array
from bn_deploy.data.batches import slices
from bn_deploy.errors import CheckFailed, InputError, ModelError
from bn_deploy.spec import Track, silent
from bn_deploy.verify.certificate import CertificateTally, Certified
from bn_deploy.verify.difference import Difference
from bn_deploy.verify.evidence import Evidence, Form, Reference
from bn_deploy.verify.flips import BudgetTally
from bn_deploy.verify.parity import Parity, StageParity, StepParity, chain
from bn_deploy.verify.scales import DRAWN_IMAGES, Scales
from bn_deploy.verify.tripwires import Trip, ask, probes, runs_elsewhere, trips

LISTED = 20
"""How many of the images whose label flipped are listed."""


@dataclass
class _Stream:
    """What is accumulated for one form."""

    form: Form
    certificate: CertificateTally | None
    to_float64: Difference = field(default_factory=Difference)
    to_parent: Difference = field(default_factory=Difference)
    budget: BudgetTally = field(default_factory=BudgetTally)
    flips: list[int] = field(default_factory=list)
    right: int = 0
    finite: bool = True

    def run(self, images: Array, shape: tuple[int, ...]) -> Array:
        """The form's logits, which must be of that shape."""
        logits = self.form.run(images)
        if logits.shape != shape:
            raise ModelError(f"{self.form.backend} gives logits of shape {logits.shape}, not {shape}")
        return logits

    def add(
        self, exact: Array, logits: Array, labels: Array, certified: Certified | None, first: int
    ) -> None:
        """Takes in a batch: float64's logits, the form's, the right answers, what is proven."""
        self.to_float64.add(exact, logits, first)
        flipped = np.flatnonzero(self.budget.add(exact, logits))
        self.flips += [first + int(row) for row in flipped[: LISTED - len(self.flips)]]
        finite = np.isfinite(logits).all(axis=1)
        self.finite &= bool(finite.all())
        self.right += int(((logits.argmax(axis=1) == labels) & finite).sum())
        if self.certificate is not None and certified is not None:
            self.certificate.add(certified, exact, logits, first)


def compare(
    forms: Sequence[Form],
    reference: Reference,
    images: Array,
    labels: Array,
    *,
    batch: int = 200,
    evidence: Evidence | None = None,
    unavailable: Mapping[str, str] | None = None,
    digests: Mapping[str, str] | None = None,
    dataset: str = "",
    track: Track = silent,
) -> Parity:
    """Runs every form on every image and compares.

    Args:
        forms: in the order in which they are made; the first is the unfolded network, which sets the scale.
        reference: images (n, ...) -> logits (n, classes) in float64, computed by the first form's network.
        images: (N, ...) float32.
        labels: (N,) the right answers.
        batch: how many images are in memory at a time.
        evidence: what sharpens the verdict; without any, only the measured run sets the scale.
        unavailable: forms that cannot be run here, with the reason; they appear in the result.
        digests: SHA-256 of each file that takes part, by kind; noted in the result.
        dataset: name of the data; noted in the result.
        track: follows the batches.

    Raises:
        CheckFailed: the first form itself gives NaN or infinity, so nothing can be judged.
        InputError: there are no images, not as many labels, a form refuses the images, or it computes in a
            class of numbers without a rule.
        ModelError: a form does not run, or gives logits of another shape than the reference.
    """
    if not len(images) or len(images) != len(labels):
        raise InputError(f"{len(images)} images with {len(labels)} labels cannot be compared")
    known = evidence or Evidence()
    streams = {form.name: _Stream(form, _tally(known, form)) for form in forms}
    scales = Scales(known, reference, forms[0], {form.precision for form in forms})
    tripped = [*known.trips, *_wires(forms, known, scales, probes(images))]
    parents = {after: before for before, after in chain(list(streams))}
    parts = list(slices(len(images), batch))
    every = max(1, len(images) // DRAWN_IMAGES)
    for index, part in enumerate(track(parts, "comparing", len(parts))):
        exact = reference(images[part])
        proofs: dict[int, Certified] = {}
        seen: dict[str, Array] = {}
        for name, stream in streams.items():
            logits = seen[name] = stream.run(images[part], exact.shape)
            certifier = known.certifiers.get(name)
            if certifier is not None and id(certifier) not in proofs:
                proofs[id(certifier)] = certifier(images[part])  # forms of the same numbers share one
            stream.add(exact, logits, labels[part], proofs.get(id(certifier)), part.start)
            if name in parents:
                stream.to_parent.add(seen[parents[name]], logits, part.start)
        first = seen[forms[0].name]
        scales.add(images[part], exact, part.start, drawn=index % every == 0, logits=first)
    if not np.isfinite(streams[forms[0].name].to_float64.rms):
        raise CheckFailed(
            f"the {forms[0].name} network itself gives NaN or infinity; nothing can be judged by it"
        )
    return Parity(
        images=len(images),
        scales=scales.result(),
        stages=tuple(_stage(stream, known, len(images)) for stream in streams.values()),
        steps=tuple(_step(parents[name], streams[name], len(images)) for name in streams if name in parents),
        trips=tuple(tripped),
        unavailable=dict(unavailable or {}),
        digests=dict(digests or {}),
        dataset=dataset,
    )


def _wires(forms: Sequence[Form], known: Evidence, scales: Scales, images: Array) -> list[Trip]:
    """The tripwires of every form."""
    allowed = scales.on_probes(images)
    found: list[Trip] = []
    for form in forms:
        found += runs_elsewhere(form.name, form.provider, form.precision, known.asked)
        found += trips(form.name, ask(form.run, images, allowed[form.precision]))
    return found


def _tally(known: Evidence, form: Form) -> CertificateTally | None:
    return CertificateTally(known.method) if form.name in known.certifiers else None


def _stage(stream: _Stream, known: Evidence, total: int) -> StageParity:
    form, difference = stream.form, stream.to_float64
    return StageParity(
        stage=form.name,
        backend=form.backend,
        provider=form.provider,
        precision=form.precision,
        accuracy=stream.right / total,
        max_abs=difference.largest,
        rms=difference.rms,
        worst_image=difference.worst_image,
        finite=stream.finite,
        budget=stream.budget.result(),
        flips=tuple(stream.flips),
        certificate=stream.certificate.result() if stream.certificate else None,
        uncertified=known.uncertified.get(form.name, ""),
    )


def _step(before: str, stream: _Stream, total: int) -> StepParity:
    difference = stream.to_parent
    return StepParity(
        before=before,
        after=stream.form.name,
        max_abs=difference.largest,
        rms=difference.rms,
        worst_image=difference.worst_image,
        agree=difference.agree,
        images=total,
    )
