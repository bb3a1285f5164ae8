"""The choices that not every TensorRT offers: one table, so that none is dropped in silence.

Asked for where it is missing, a knob is an error. Not asked for, its absence is recorded in the side-car.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.options import HARDWARE_LEVELS, BuildOptions
from bn_deploy.errors import InputError

_ON_TARGET = "its kernels are made where the plan runs"


@dataclass(frozen=True)
class Knob:
    """One choice.

    Attributes:
        name: what the side-car and `bn-deploy doctor` call it.
        asked: whether the options ask for it.
        here: whether this TensorRT has it.
        lacking: what it lacks, after its name and "has no".
    """

    name: str
    asked: Callable[[BuildOptions], bool]
    here: Callable[[TensorRT], bool]
    lacking: str

    def why_not(self, trt: TensorRT) -> str | None:
        """None if `trt` has it, else the reason."""
        if self.here(trt):
            return None
        why = f": {_ON_TARGET}" if trt.compiles_on_target else ""
        return f"{trt} has no {self.lacking}{why}"


def _level(text: str) -> Knob:
    name = HARDWARE_LEVELS[text]
    return Knob(
        f"hardware_compatible_{text}",
        lambda options: options.hardware_compatible == text,
        lambda trt: name in trt.hardware_levels,
        f"hardware compatibility level {name}",
    )


KNOBS: tuple[Knob, ...] = (
    Knob("tf32", lambda o: o.tf32, lambda trt: trt.has_tf32_flag, "TF32 flag"),
    Knob(
        "optimization_level",
        lambda o: o.optimization_level is not None,
        lambda trt: trt.has_optimization_level,
        "optimization level",
    ),
    Knob(
        "compute_capabilities",
        lambda o: o.compute_capabilities is not None,
        lambda trt: bool(trt.compute_capabilities),
        "choice of compute capabilities: it builds for the GPU that is here",
    ),
    Knob(
        "version_compatible",
        lambda o: o.version_compatible,
        lambda trt: trt.has_version_compatible,
        "version-compatible plans",
    ),
    *(_level(text) for text in HARDWARE_LEVELS),
    Knob("timing_cache", lambda o: bool(o.timing_cache), lambda trt: trt.has_timing_cache, "timing cache"),
    Knob("progress", lambda _: False, lambda trt: trt.has_progress_monitor, "progress monitor"),
)
"""Every choice that some supported version lacks."""


def check(options: BuildOptions, trt: TensorRT) -> None:
    """Refuses a choice that `trt` does not offer.

    Raises:
        InputError: it was asked for and is missing here; the message says which.
    """
    for knob in KNOBS:
        if knob.asked(options) and (reason := knob.why_not(trt)) is not None:
            raise InputError(reason)
    unknown = [text for text in options.compute_capabilities or () if text not in trt.compute_capabilities]
    if unknown:
        known = ", ".join(trt.compute_capabilities)
        raise InputError(f"{trt} cannot build for {', '.join(unknown)}; it knows {known}")


def missing(trt: TensorRT) -> dict[str, str]:
    """What `trt` does not offer, by name, each with the reason."""
    return {knob.name: reason for knob in KNOBS if (reason := knob.why_not(trt)) is not None}
