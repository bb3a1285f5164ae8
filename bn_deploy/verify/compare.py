"""Compares the forms of a network with each other and with a float64 run, over a whole test set.

The arbiter is float64: the trained network's own float32 distance to it says how much of a difference is
rounding, and no tolerance is typed by hand. A form passes when its root-mean-square distance to float64 is
at most FACTOR times that of the trained network. PyTorch's compiler tests accept a float32 result by the same
factor (torch/_dynamo/utils.py, `same`), but add an absolute tolerance, which is left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from bn_deploy.backends.base import Array, Runner, infer
from bn_deploy.data.batches import slices
from bn_deploy.errors import CheckFailed, InputError, ModelError
from bn_deploy.spec import Stage, Track, silent
from bn_deploy.verify.parity import Parity, StageParity, StepParity

Reference = Callable[[Array], Array]


@dataclass
class _Difference:
    """Largest and mean-square difference of two streams of logits, with the image that is worst.

    Logits that are not finite are infinitely far from everything and name no class.
    """

    largest: float = 0.0
    worst_image: int = 0
    square: float = 0.0
    count: int = 0
    agree: int = 0

    def add(self, reference: Array, candidate: Array, first_image: int) -> None:
        """Takes in two batches (n, classes) of the images from `first_image` on."""
        with np.errstate(invalid="ignore", over="ignore"):  # infinity minus infinity is dealt with here
            difference = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
            difference[~np.isfinite(difference)] = np.inf
            self.square += float(np.square(difference).sum())
        per_image = difference.max(axis=1)
        if per_image.max() > self.largest:
            self.largest = float(per_image.max())
            self.worst_image = first_image + int(per_image.argmax())
        self.count += difference.size
        same = reference.argmax(axis=1) == candidate.argmax(axis=1)
        self.agree += int((same & np.isfinite(per_image)).sum())

    @property
    def rms(self) -> float:
        return float(np.sqrt(self.square / self.count))


@dataclass
class _Stream:
    """What is accumulated for one form."""

    runner: Runner
    to_float64: _Difference = field(default_factory=_Difference)
    to_neighbour: _Difference = field(default_factory=_Difference)
    right: int = 0
    finite: bool = True


def compare(
    runners: Mapping[Stage, Runner],
    reference: Reference,
    images: Array,
    labels: Array,
    *,
    batch: int = 200,
    unavailable: Mapping[Stage, str] | None = None,
    digests: Mapping[str, str] | None = None,
    dataset: str = "",
    track: Track = silent,
) -> Parity:
    """Runs every form on every image and compares.

    Args:
        runners: one for each form, entered, in the order of `Stage`; the trained form must be among them.
            Each has one input and one output.
        reference: images (n, ...) -> logits (n, classes) in float64, computed by the trained network.
        images: (N, ...) float32.
        labels: (N,) the right answers.
        batch: how many images are in memory at a time.
        unavailable: forms that cannot be run here, with the reason; they appear in the result.
        digests: SHA-256 of each file that takes part, by kind; noted in the result.
        dataset: name of the data; noted in the result.
        track: follows the batches.

    Raises:
        CheckFailed: the trained network itself gives NaN or infinity, so nothing can be judged.
        InputError: there are no images, not as many labels, or a runner refuses the images.
        ModelError: a form does not run, or gives logits of another shape than the trained network.
    """
    if not len(images) or len(images) != len(labels):
        raise InputError(f"{len(images)} images with {len(labels)} labels cannot be compared")
    streams = {stage: _Stream(runners[stage]) for stage in Stage if stage in runners}
    total = len(images)
    parts = list(slices(total, batch))
    for part in track(parts, "comparing", len(parts)):
        exact = reference(images[part])
        before: Array | None = None
        for stream in streams.values():
            logits = _logits(stream.runner, images[part])
            if logits.shape != exact.shape:
                raise ModelError(
                    f"{stream.runner.backend} gives logits of shape {logits.shape}, not {exact.shape}"
                )
            stream.to_float64.add(exact, logits, part.start)
            if before is not None:
                stream.to_neighbour.add(before, logits, part.start)
            finite = np.isfinite(logits).all(axis=1)
            stream.finite &= bool(finite.all())
            stream.right += int(((logits.argmax(axis=1) == labels[part]) & finite).sum())
            before = logits
    trained = streams[Stage.TRAINED].to_float64
    if not np.isfinite(trained.rms):
        raise CheckFailed("the trained network itself gives NaN or infinity; nothing can be judged by it")
    return Parity(
        images=total,
        rms_trained=trained.rms,
        stages=tuple(_stage(stage, stream, total) for stage, stream in streams.items()),
        steps=_steps(streams, total),
        unavailable={stage.value: reason for stage, reason in (unavailable or {}).items()},
        digests=dict(digests or {}),
        dataset=dataset,
    )


def _logits(runner: Runner, images: Array) -> Array:
    results = infer(runner, {runner.inputs[0].name: images})
    return results[runner.outputs[0].name]


def _stage(stage: Stage, stream: _Stream, total: int) -> StageParity:
    runner, difference = stream.runner, stream.to_float64
    return StageParity(
        stage=stage.value,
        backend=runner.backend,
        provider=runner.provider,
        precision=runner.precision.value,
        accuracy=stream.right / total,
        max_abs=difference.largest,
        rms=difference.rms,
        worst_image=difference.worst_image,
        finite=stream.finite,
    )


def _steps(streams: Mapping[Stage, _Stream], total: int) -> tuple[StepParity, ...]:
    return tuple(
        StepParity(
            before=before.value,
            after=after.value,
            max_abs=(difference := streams[after].to_neighbour).largest,
            rms=difference.rms,
            worst_image=difference.worst_image,
            agree=difference.agree,
            images=total,
        )
        for before, after in pairwise(streams)
    )
