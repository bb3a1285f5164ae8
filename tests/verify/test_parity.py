from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from bn_deploy.errors import InputError
from bn_deploy.verify.certificate import AtRisk, Certificate
from bn_deploy.verify.flips import Budget
from bn_deploy.verify.parity import FACTOR, FORMAT, Limits, Parity, StageParity, StepParity, chain
from bn_deploy.verify.scale import Scale
from bn_deploy.verify.tripwires import Trip

NAMES = ("trained", "converted", "folded", "onnx", "engine")
PROOF = Certificate("first order", 300, 298, 290, (AtRisk(7, 1e-3, 2e-3), AtRisk(9, 1e-4, 3e-3)), 0.01, 5)


def parity(*rms: float, trained: float = 1e-6, step: float = 1e-4, **changes: Any) -> Parity:
    """A comparison of as many forms as there are distances to float64."""
    stages = tuple(
        StageParity(
            stage=name,
            backend="torch",
            provider="eager",
            precision="fp32",
            accuracy=0.9,
            max_abs=4 * value,
            rms=value,
            worst_image=3,
            finite=math.isfinite(value),
            budget=Budget(0.5, 0.1, 2.0, 3),
            flips=(1, 2, 5),
            certificate=PROOF if name == "folded" else None,
            uncertified="" if name == "folded" else "no rounding rule for erf",
        )
        for name, value in zip(NAMES, rms, strict=False)
    )
    steps = tuple(
        StepParity(before, after, max_abs=2e-6, rms=step, worst_image=1, agree=299, images=300)
        for before, after in chain(list(NAMES[: len(rms)]))
    )
    return Parity(300, (Scale("fp32", "trained", trained),), stages, steps, **changes)


@pytest.mark.parametrize(
    ("rms", "failed"),
    [
        ((1e-6, 1e-6, 1e-6, 1e-6), None),
        ((1e-6, 1.5e-6, 2e-6, 0.0), None),  # the bound itself passes
        ((1e-6, math.nextafter(2e-6, 1), 1e-6, 1e-6), "trained/converted"),
        ((1e-6, 1e-6, 3e-6, 1e-6), "converted/folded"),
        ((1e-6, 1e-6, 3e-6, 9e-6), "converted/folded"),  # the first, not the worst
        ((1e-6, 1e-6, 1e-6, math.inf), "folded/onnx"),
        ((1e-6, 1e-6, 1e-6, 1e-6, math.inf), "onnx/engine"),
        ((1e-6,), None),
    ],
)
def test_the_first_step_that_breaks_the_network_is_named(rms: tuple[float, ...], failed: str | None) -> None:
    result = parity(*rms)
    assert FACTOR == 2.0
    assert result.bound == 2e-6
    assert result.rms_trained == 1e-6
    assert result.failed == failed
    assert result.exit_code == (0 if failed is None else 1)
    assert result.to_json()["failed"] == failed


def test_a_form_that_gives_nan_fails_however_near_the_rest_is() -> None:
    good = parity(1e-6, 1e-6)
    broken = dataclasses.replace(good.stages[1], finite=False)
    assert dataclasses.replace(good, stages=(good.stages[0], broken)).failed == "trained/converted"


def test_a_network_without_rounding_allows_none() -> None:
    assert parity(0.0, 0.0, trained=0.0).failed is None
    assert parity(0.0, 1e-30, trained=0.0).failed == "trained/converted"


def test_a_drift_in_small_steps_is_blamed_on_the_first_form_that_is_too_far() -> None:
    assert parity(1e-6, 1.9e-6, 2.1e-6, step=2e-7).failed == "converted/folded"


def test_a_form_is_blamed_on_the_step_that_broke_it_and_not_on_an_earlier_drift() -> None:
    good = parity(1e-6, 2.1e-6, 9e-6, step=2e-7)
    steps = (good.steps[0], dataclasses.replace(good.steps[1], rms=9e-6))
    assert dataclasses.replace(good, steps=steps).failed == "converted/folded"


def test_a_tripwire_fails_whatever_the_distances_are() -> None:
    trips = (Trip("folded", "constant", "8 different images get the same logits"),)
    result = parity(1e-6, 1e-6, 1e-6, trips=trips)
    assert result.failed == "converted/folded"
    assert list(result.faults(result.stages[2])) == ["constant: 8 different images get the same logits"]
    of_trained = dataclasses.replace(result, trips=(Trip("trained", "accuracy", "10 % are right"),))
    assert of_trained.failed == "trained"


def test_an_error_beyond_what_rounding_can_do_fails_though_the_average_is_small() -> None:
    good = parity(1e-6, 1e-6, 1e-6)
    broken = dataclasses.replace(good.stages[2], certificate=dataclasses.replace(PROOF, excess=1.5))
    result = dataclasses.replace(good, stages=(*good.stages[:2], broken))
    assert result.failed == "converted/folded"
    (fault,) = result.faults(broken)
    assert fault == "image 5 is 1.5 times farther off than rounding in fp32 can take it"


@pytest.mark.parametrize(
    ("limits", "fails"),
    [
        (Limits(), False),
        (Limits(max_abs=4e-6), False),
        (Limits(max_abs=3.9e-6), True),
        (Limits(min_agreement=0.99), False),
        (Limits(min_agreement=0.991), True),
        (Limits(max_abs=1.0, min_agreement=1.0), True),
    ],
)
def test_limits_of_the_user_come_on_top_and_not_instead(limits: Limits, fails: bool) -> None:
    """Of 300 labels 3 flipped."""
    assert (parity(1e-6, 1e-6).judged_by(limits).failed is not None) == fails
    loose = Limits(max_abs=1e9, min_agreement=0.0)
    assert parity(1e-6, 1e-3).judged_by(loose).failed == "trained/converted"


def test_limits_that_are_not_given_again_stay() -> None:
    result = parity(1e-6, limits=Limits(max_abs=1e-9)).judged_by(Limits(min_agreement=0.5))
    assert result.limits == Limits(1e-9, 0.5)


def test_every_bound_says_where_it_comes_from() -> None:
    text = json.dumps(parity(1e-6, 1e-6).to_json())
    assert "2 x 1.00e-06, the trained network's own in fp32" in text
    drawn = Scale("bf16", "trained", 1e-3, drawn=4e-3, draws=8, drawn_images=500)
    assert drawn.allowed == 3 * 4e-3
    assert drawn.source == (
        "3 x 4.00e-03, the farthest of 8 runs of the trained network with bf16 roundings drawn at random"
    )


def test_forms_follow_what_they_were_made_from() -> None:
    names = ["trained", "converted", "native", "folded", "onnx", "engine"]
    assert list(chain(names)) == [
        ("trained", "converted"),
        ("converted", "native"),
        ("converted", "folded"),
        ("folded", "onnx"),
        ("onnx", "engine"),
    ]
    assert list(chain(["trained", "onnx"])) == [("trained", "onnx")]
    assert list(chain(["a.onnx", "b.onnx"])) == [("a.onnx", "b.onnx")]


@pytest.mark.parametrize(
    "given",
    [
        parity(1e-6, 1e-6),
        parity(1e-6, math.inf, 2e-7),
        parity(1e-6, 1e-6, 1e-6, limits=Limits(1e-3, 0.5), trips=(Trip("folded", "constant", "seen"),)),
        parity(
            1e-6,
            1e-6,
            unavailable={"engine": "no GPU"},
            digests={"onnx.folded": "ab" * 32},
            dataset="synthetic",
        ),
    ],
    ids=["plain", "infinite", "limited", "with remarks"],
)
def test_what_was_written_is_what_is_read(given: Parity) -> None:
    text = json.dumps(given.to_json(), allow_nan=False)
    assert Parity.from_json(json.loads(text)) == given


def test_the_verdict_is_not_read_but_computed() -> None:
    value = parity(1e-6, 1e-6, 1.0).to_json()
    value |= {"failed": None, "bounds": {}, "faults": {}}
    assert Parity.from_json(value).failed == "converted/folded"


def _put(*path: Any, value: Any) -> Callable[[dict[str, Any]], object]:
    def change(root: dict[str, Any]) -> None:
        place: Any = root
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "spoil",
    [
        _put("format", value="bn-deploy-parity/1"),
        lambda value: value.pop("format"),
        lambda value: value.pop("images"),
        lambda value: value.pop("unavailable"),
        lambda value: value["stages"][0].pop("rms"),
        lambda value: value["steps"][0].pop("agree"),
        _put("images", value=300.0),
        _put("images", value=True),
        _put("images", value=0),
        _put("stages", 0, "rms", value=None),
        _put("stages", 0, "precision", value="int8"),
        _put("stages", 0, "precision", value="fp16"),
        _put("stages", 2, "certificate", "proven", value="all"),
        _put("stages", 2, "certificate", "at_risk", 0, "image", value=None),
        _put("stages", 0, "flips", value=3),
        _put("stages", 0, "budget", value=None),
        _put("scales", value=[]),
        _put("trips", value=[{"stage": "folded"}]),
        _put("limits", value=None),
        _put("surprise", value=1),
        _put("stages", value=None),
        _put("stages", value={}),
        _put("stages", 0, value="trained"),
        _put("stages", 0, "surprise", value=1),
        _put("stages", 0, "rms", value="small"),
        _put("stages", 0, "finite", value=1),
        _put("steps", 0, "agree", value=299.0),
        _put("steps", 0, "before", value=None),
        _put("unavailable", value=[["engine", "no GPU"]]),
        _put("unavailable", value={"engine": 3}),
        _put("digests", value={"onnx": None}),
        _put("dataset", value=None),
    ],
)
def test_a_damaged_result_is_refused(spoil: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(json.dumps(parity(1e-6, 1e-6, 1e-6).to_json()))
    spoil(value)
    with pytest.raises(InputError, match=FORMAT) as refusal:
        Parity.from_json(value)
    assert "\n" not in str(refusal.value)
