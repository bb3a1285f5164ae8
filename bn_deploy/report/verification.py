"""The result of `verify` as text: short when all is well, and what to look at when not."""

from __future__ import annotations

import math

from bn_deploy.report.layout import table, wrapped
from bn_deploy.spec import Stage
from bn_deploy.verify.evidence import EMULATED
from bn_deploy.verify.parity import Parity, StageParity

_SHOWN = 3
"""How many images of a list are printed; all are in parity.json."""


def parity_text(parity: Parity) -> str:
    """The comparison: each form against float64, what is proven of its labels, and the verdict."""
    rows = [
        (
            stage.stage,
            f"{stage.backend} {stage.provider}, {stage.precision}",
            f"{stage.accuracy * 100:.2f} %",
            f"{stage.max_abs:.2e}",
            f"{stage.rms:.2e}",
            f"{stage.certificate.proven:,}" if stage.certificate else "n/a",
            f"{stage.budget.observed:,}",
            "pass" if parity.passes(stage) else "FAIL",
        )
        for stage in parity.stages
    ]
    columns = ["form", "runs on", "accuracy", "max", "rms", "proven", "flipped", "verdict"]
    lines = [
        table(columns, rows, left=2),
        *_emulated(parity),
        "max and rms: of the difference of a logit to float64; proven and flipped: labels",
        *(wrapped(f"{stage}: not run: {reason}") for stage, reason in parity.unavailable.items()),
        "",
    ]
    lines += _holds(parity) if parity.failed is None else _fails(parity)
    return "\n".join([*lines, *_labels(parity), *_layers(parity)])


def _emulated(parity: Parity) -> list[str]:
    """What forms without kernels of their own numbers on this machine are run as."""
    if not any(stage.provider.endswith(EMULATED) for stage in parity.stages):
        return []
    return [
        wrapped("emulated: in float32, each result rounded once to the form's own numbers; no engine was run")
    ]


def _holds(parity: Parity) -> list[str]:
    bounds = "; ".join(
        f"rms to float64 at most {scale.allowed:.2e} = {scale.source}" for scale in parity.scales
    )
    limits = [
        f"--max-abs {parity.limits.max_abs:g}" if parity.limits.max_abs is not None else "",
        f"--min-agreement {parity.limits.min_agreement:g}" if parity.limits.min_agreement is not None else "",
    ]
    also = "".join(f"; {limit} holds" for limit in limits if limit)
    return [wrapped(f"parity holds over {parity.images:,} images: {bounds}{also}")]


def _fails(parity: Parity) -> list[str]:
    """The step that broke the network, what is wrong with each form, every step, and the next command."""
    lines = [wrapped(f"PARITY FAILS at {parity.failed}")]
    lines += [wrapped(f"{stage.stage}: {fault}") for stage in parity.stages for fault in parity.faults(stage)]
    steps = [
        (
            step.name,
            f"{step.max_abs:.2e}",
            f"{step.rms:.2e}",
            f"{step.agree:,} of {step.images:,}",
            f"image {step.worst_image}",
        )
        for step in parity.steps
    ]
    if steps:
        lines += ["", table(["step", "max", "rms", "same label", "worst at"], steps)]
    if not parity.layers and Stage.TRAINED.value == parity.stages[0].stage:
        lines += ["", "`bn-deploy verify --localise` names the first layer that is off"]
    return lines


def _labels(parity: Parity) -> list[str]:
    """What is known of labels: proofs where the bound says something, the flip budget where not."""
    said: dict[str, list[str]] = {}
    for stage in parity.stages:
        said.setdefault(_proof(stage), []).append(stage.stage)
    return [wrapped(f"{', '.join(stages)}: {text}") for text, stages in said.items()]


def _proof(stage: StageParity) -> str:
    """One sentence on the labels of a form."""
    flips = f"{stage.budget.observed:,} flipped{_listed([str(image) for image in stage.flips])}"
    certificate = stage.certificate
    if certificate is not None:
        risk = certificate.images - certificate.proven
        nearest = sorted(certificate.at_risk, key=lambda r: r.margin)
        shown = [f"{r.image}: leads by {r.margin:.1e}, rounding up to {r.bound:.1e}" for r in nearest]
        strictly = (
            f"{certificate.strictly:,} strictly, the rest to first order"
            if certificate.proven > certificate.strictly
            else "strictly"
        )
        return (
            f"{certificate.proven:,} of {certificate.images:,} labels cannot flip in {stage.precision} "
            f"({strictly}), {risk:,} at risk{_listed(shown)}; {flips}"
        )
    budget = stage.budget
    why = f" ({stage.uncertified})" if stage.uncertified else ""
    return (
        f"measured errors and margins allow for {budget.expected:.1f} flips, 95 % interval "
        f"{budget.low:.1f} to {budget.high:.1f}; {flips}{why}"
    )


def _listed(items: list[str]) -> str:
    if not items:
        return ""
    more = "; ..." if len(items) > _SHOWN else ""
    return f" (images {'; '.join(items[:_SHOWN])}{more})"


def _layers(parity: Parity) -> list[str]:
    """How the error grows from layer to layer: a column for each form, and a bar for the worst of them."""
    if not parity.layers:
        return []
    first = {stage.stage: parity.first_layer(stage) for stage in parity.stages}
    cells: dict[str, dict[str, str]] = {}
    worst: dict[str, float] = {}
    own: dict[str, float] = {}
    reached: set[str] = set()
    for row in parity.layers:
        reached |= {row.stage} if row.layer == first[row.stage] else set()
        sign = "!" if row.stage in reached else "~" if row.off else " "
        cells.setdefault(row.layer, {})[row.stage] = f"{row.rms:.1e}{sign}"
        own.setdefault(row.layer, row.own)  # the first form's class of numbers: the trained network's
        if sign != "~":
            worst[row.layer] = max(worst.get(row.layer, 0.0), row.rms / (row.size or 1.0))
    forms = list(dict.fromkeys(row.stage for row in parity.layers))
    rows = [
        (layer, f"{own[layer]:.1e}", *(found.get(form, "") for form in forms), _bar(worst.get(layer, 0.0)))
        for layer, found in cells.items()
    ]
    found = [
        wrapped(f"{stage}: the first layer that is off is {layer}") for stage, layer in first.items() if layer
    ]
    return [
        "",
        "rms to float64, layer by layer; ! more than the gate allows; ~ other numbers on purpose: a batch",
        "norm was folded into this layer, and a later one agrees again",
        table(["layer", "trained", *forms, "worst, relative"], rows),
        *(wrapped(way) for way in dict.fromkeys(f"{row.stage}: {row.how}" for row in parity.layers)),
        *(found or ["no layer is off"]),
    ]


def _bar(relative: float) -> str:
    """A bar whose length is the logarithm of a relative error, from 1e-8 to 1."""
    length = 2 * (math.log10(relative) + 8) if relative > 0 else 0.0
    return ("#" * max(0, min(16, round(length)))).ljust(16)
