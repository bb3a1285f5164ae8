"""Faults that a comparison can miss, looked for before anything is compared, on every form.

A network exported with batch statistics can agree with itself to the last bit and still be wrong for every
batch but one; a network that gives every image the same answer is near another one that does. Each wire asks
one question of a form, on a few images; what trips carries what was seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from bn_deploy.backends.base import Array
from bn_deploy.errors import InputError

PROBES = 8
"""How many images the wires look at."""


@dataclass(frozen=True)
class Trip:
    """A wire that tripped.

    Attributes:
        stage: the form.
        wire: the question that it answered wrongly.
        seen: what was seen.
    """

    stage: str
    wire: str
    seen: str


@dataclass(frozen=True)
class Asked:
    """What a form must run on, as the caller asked for it; None asks for nothing."""

    provider: str | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Probed:
    """What a form answers to the probes.

    Attributes:
        together: (n, classes) all in one batch.
        alone: (n, classes) each in a batch of its own; None where the form takes no such batch.
        turned: (n, classes) all in one batch in the opposite order, put back in order.
        mixed: (n, classes) each first in a batch whose other images are copies of the next; None as above.
        allowed: by how much (root mean square) two evaluations of the same image may differ.
    """

    together: Array
    alone: Array | None
    turned: Array
    mixed: Array
    allowed: float


def probes(images: Array) -> Array:
    """Up to PROBES images, evenly spread over all: neighbours in a file are often alike."""
    return np.asarray(images[np.linspace(0, len(images) - 1, min(PROBES, len(images))).astype(int)])


def ask(run: Callable[[Array], Array], images: Array, allowed: float) -> Probed:
    """Runs a form on the probes in several batches.

    Args:
        run: images (n, ...) -> logits (n, classes).
        images: the probes.
        allowed: see Probed.
    """
    together = run(images)
    turned = run(np.ascontiguousarray(images[::-1]))[::-1]
    rows = [
        np.concatenate([images[i : i + 1], np.roll(images, -i - 1, axis=0)[:1].repeat(len(images) - 1, 0)])
        for i in range(len(images))
    ]
    mixed = np.concatenate([run(np.ascontiguousarray(batch))[:1] for batch in rows])
    alone: Array | None = None
    with suppress(InputError):  # an engine or a file for other batches; the rest is asked all the same
        alone = np.concatenate([run(images[i : i + 1]) for i in range(len(images))])
    return Probed(together, alone, turned, mixed, allowed)


def trips(stage: str, probed: Probed) -> Iterator[Trip]:
    """The wires that a form's answers trip; a broken one may trip several."""
    for name, wire in WIRES.items():
        if (seen := wire(probed)) is not None:
            yield Trip(stage, name, seen)


def runs_elsewhere(stage: str, provider: str, precision: str, asked: Mapping[str, Asked]) -> Iterator[Trip]:
    """Trips if a form runs on another provider or in another precision than asked for."""
    wanted = asked.get(stage, Asked())
    for what, want, have in (
        ("provider", wanted.provider, provider),
        ("precision", wanted.precision, precision),
    ):
        if want is not None and want != have:
            yield Trip(stage, f"another {what}", f"asked for {want}, it runs on {have}")


def _not_finite(probed: Probed) -> str | None:
    answers = [a for a in (probed.together, probed.alone, probed.turned, probed.mixed) if a is not None]
    bad = sum(int((~np.isfinite(a)).sum()) for a in answers)
    return f"{bad} logits are NaN or infinite" if bad else None


def _constant(probed: Probed) -> str | None:
    """Differing images, one answer: in a batch, or each alone."""
    for how, answers in (("in one batch", probed.together), ("each alone", probed.alone)):
        if answers is None or len(answers) < 2:
            continue
        spread = float(np.ptp(answers.astype(np.float64), axis=0).max())
        if spread <= probed.allowed:
            return (
                f"{len(answers)} different images, {how}, get the same logits to {spread:.1e}: less than "
                f"rounding, {probed.allowed:.1e}"
            )
    return None


def _row_by_row(probed: Probed) -> str | None:
    """A batch of one and a batch of many."""
    if probed.alone is None:
        return None
    return _apart(probed.together, probed.alone, probed.allowed, "alone than in a batch")


def _composition(probed: Probed) -> str | None:
    """The same image among other images."""
    return _apart(probed.together, probed.mixed, probed.allowed, "among other images")


def _order(probed: Probed) -> str | None:
    """The same images in another order."""
    return _apart(probed.together, probed.turned, probed.allowed, "in another place of the batch")


def _apart(one: Array, other: Array, allowed: float, how: str) -> str | None:
    with np.errstate(invalid="ignore", over="ignore"):
        rms = np.sqrt(np.square(one.astype(np.float64) - other).mean(axis=1))
    worst = int(np.nan_to_num(rms, nan=np.inf).argmax())
    if rms[worst] <= allowed:
        return None
    return f"the same image gets other logits {how}: rms {rms[worst]:.1e}, rounding explains {allowed:.1e}"


WIRES: dict[str, Callable[[Probed], str | None]] = {
    "not finite": _not_finite,
    "constant": _constant,
    "batch of one": _row_by_row,
    "batch composition": _composition,
    "place in the batch": _order,
}
"""The questions, by name."""


def another_accuracy(recorded: float, labels: Array, right: int, population: int) -> str | None:
    """Whether the trained network gets another share right than its checkpoint records of the same images.

    Inputs that are silently transposed, or not normalised, look like this: every form agrees, and all are
    wrong. A sample of the images may differ by 3 deviations of drawing it without replacement, and by 3
    labels that another machine's roundings flip.

    Args:
        recorded: the share that the checkpoint records.
        labels: (n,) of the images that were tried.
        right: how many of them the trained network gets right.
        population: how many images the recorded share is of.
    """
    total = len(labels)
    drawn = max(0.0, 1 - total / population)
    deviation = float(np.sqrt(total * recorded * (1 - recorded) * drawn))
    if abs(right - round(recorded * total)) <= 3 * deviation + 3:
        return None
    commonest = float(np.bincount(labels).max()) / total
    chance = ", no more than chance" if right <= total * commonest + 3 * np.sqrt(total * commonest) else ""
    return (
        f"{right / total * 100:.1f} % of {total:,} labels are right{chance}; the checkpoint records "
        f"{recorded * 100:.1f} %: are the images normalised and laid out as in training?"
    )
