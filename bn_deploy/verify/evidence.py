"""What a comparison is given: the forms of a network, and what is known of them beside their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bn_deploy.backends.base import Array, Runner, infer
from bn_deploy.spec import Stage
from bn_deploy.verify.certificate import Certifier
from bn_deploy.verify.tripwires import Asked, Trip

EMULATED = ", emulated"
"""What the provider of a form ends with that runs in float32 and rounds each result to its own numbers."""

Reference = Callable[[Array], Array]
"""Images (n, ...) -> logits (n, classes)."""


@dataclass(frozen=True)
class Form:
    """One form of a network, running.

    Attributes:
        name: what reports call it; one of Stage, or the name of a file.
        run: images (n, ...) -> logits (n, classes).
        backend, provider: what runs it, as read back from the runtime.
        precision: the class of numbers that it computes in, one of tolerance.CLASSES.
    """

    name: str
    run: Reference
    backend: str
    provider: str
    precision: str


def form(stage: Stage, runner: Runner, numbers: str | None = None) -> Form:
    """A form with one input and one output.

    Args:
        stage: which form.
        runner: entered.
        numbers: its class where the runner's precision does not say it all, as with TF32.
    """

    def run(images: Array) -> Array:
        results = infer(runner, {runner.inputs[0].name: images})
        return results[runner.outputs[0].name]

    return Form(stage.value, run, runner.backend, runner.provider, numbers or runner.precision.value)


@dataclass(frozen=True)
class Evidence:
    """What a comparison knows beside the forms themselves; each part may be missing.

    Attributes:
        draws: runs of the first form with roundings drawn at random, by class of numbers.
        partly: whether only the parameters' roundings are drawn, and not those of operators.
        undrawn: why there are none.
        baselines: the first form's network run in other classes of numbers than its own.
        certifiers: what proves labels, for each form that has one.
        method: the bound that the certifiers use.
        uncertified: why a form has none.
        asked: what each form must run on.
        trips: tripwires that tripped before, when files were read.
    """

    draws: Mapping[str, Sequence[Reference]] = field(default_factory=dict)
    partly: bool = False
    undrawn: str = ""
    baselines: Mapping[str, Reference] = field(default_factory=dict)
    certifiers: Mapping[str, Certifier] = field(default_factory=dict)
    method: str = ""
    uncertified: Mapping[str, str] = field(default_factory=dict)
    asked: Mapping[str, Asked] = field(default_factory=dict)
    trips: Sequence[Trip] = ()
