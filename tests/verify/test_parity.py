from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from bn_deploy.errors import InputError
from bn_deploy.verify.parity import FACTOR, FORMAT, Parity, StageParity, StepParity

NAMES = ("trained", "converted", "folded", "onnx", "engine")


def parity(*rms: float, trained: float = 1e-6, **changes: Any) -> Parity:
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
        )
        for name, value in zip(NAMES, rms, strict=False)
    )
    steps = tuple(
        StepParity(before, after, max_abs=2e-6, rms=1e-7, worst_image=1, agree=299, images=300)
        for before, after in pairwise(NAMES[: len(rms)])
    )
    return Parity(300, trained, stages, steps, **changes)


@pytest.mark.parametrize(
    ("rms", "failed"),
    [
        ((1e-6, 1e-6, 1e-6, 1e-6), None),
        ((1e-6, 1.5e-6, 2e-6, 0.0), None),  # the bound itself passes
        ((1e-6, math.nextafter(2e-6, 1), 1e-6, 1e-6), "trained/converted"),
        ((1e-6, 1e-6, 3e-6, 1e-6), "converted/folded"),
        ((1e-6, 1e-6, 3e-6, 9e-6), "converted/folded"),  # the first, not the worst
        ((1e-6, 1e-6, 1e-6, math.inf), "folded/onnx"),
        ((1e-6, 1e-6, 1e-6, 1e-6, math.nan), "onnx/engine"),
        ((1e-6,), None),
    ],
)
def test_the_first_step_that_breaks_the_network_is_named(rms: tuple[float, ...], failed: str | None) -> None:
    result = parity(*rms)
    assert FACTOR == 2.0
    assert result.bound == 2e-6
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


@pytest.mark.parametrize(
    "given",
    [
        parity(1e-6, 1e-6),
        parity(1e-6, math.inf, 2e-7),
        parity(
            1e-6,
            1e-6,
            unavailable={"engine": "no GPU"},
            digests={"onnx.folded": "ab" * 32},
            dataset="synthetic",
        ),
    ],
    ids=["plain", "infinite", "with remarks"],
)
def test_what_was_written_is_what_is_read(given: Parity) -> None:
    text = json.dumps(given.to_json(), allow_nan=False)
    assert Parity.from_json(json.loads(text)) == given


def test_the_verdict_is_not_read_but_computed() -> None:
    value = parity(1e-6, 1e-6, 1.0).to_json()
    value |= {"failed": None, "bound": 1e9, "factor": 1e9}
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
        _put("format", value="bn-deploy-parity/2"),
        lambda value: value.pop("format"),
        lambda value: value.pop("images"),
        lambda value: value.pop("unavailable"),
        lambda value: value["stages"][0].pop("rms"),
        lambda value: value["steps"][0].pop("agree"),
        _put("images", value=300.0),
        _put("images", value=True),
        _put("rms_trained", value=None),
        _put("stages", value=None),
        _put("stages", value={}),
        _put("stages", 0, value="trained"),
        _put("stages", 0, "surprise", value=1),
        _put("stages", 0, "rms", value="small"),
        _put("stages", 0, "accuracy", value=None),
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
    value = json.loads(json.dumps(parity(1e-6, 1e-6).to_json()))
    spoil(value)
    with pytest.raises(InputError, match=FORMAT) as refusal:
        Parity.from_json(value)
    assert "\n" not in str(refusal.value)
