from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.artifact import sha256_bytes
from bn_deploy.engine import sidecar
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import InputError
from bn_deploy.spec import BatchRange, Precision, TensorSpec

PLAN = b"a plan"
KNOWN = Sidecar(
    plan_sha256=sha256_bytes(PLAN),
    plan_bytes=len(PLAN),
    onnx_sha256="0" * 64,
    origin={"bn_deploy.dataset": "synthetic"},
    package_version="0.1.0",
    tensorrt="tensorrt",
    tensorrt_version="11.4.0.106",
    systems=("linux",),
    architecture="x86_64",
    compute_capabilities=("8.9",),
    gpu="NVIDIA Thing",
    settings={"typing": "strong", "flags": []},
    profiles=(BatchRange(1, 1, 1), BatchRange(1, 4, 8)),
    precision=Precision.FP16,
    layers={Precision.FP16: 3, Precision.FP32: 1},
    engine_layers={Precision.FP16: 2},
    inputs=(TensorSpec("image", (None, 1, 8, 8), "float32"),),
    outputs=(TensorSpec("logits", (None, 5), "float32"),),
)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model.plan"
    path.write_bytes(PLAN)
    sidecar.write(path, KNOWN)
    return path


def test_what_is_written_is_read(plan: Path) -> None:
    assert sidecar.sidecar_path(plan).name == "model.plan.json"
    assert sidecar.read(plan) == KNOWN
    assert sidecar.read_plan(plan) == (KNOWN, PLAN)


def test_it_is_written_the_same_every_time(plan: Path) -> None:
    before = sidecar.sidecar_path(plan).read_bytes()
    sidecar.write(plan, sidecar.read(plan))
    assert sidecar.sidecar_path(plan).read_bytes() == before


def test_a_plan_without_one_is_refused(plan: Path) -> None:
    sidecar.sidecar_path(plan).unlink()
    with pytest.raises(InputError, match=r"model\.plan has no side-car model\.plan\.json beside it"):
        sidecar.read(plan)


@pytest.mark.parametrize("other", [b"b plan", b"a plan and more", b""])
def test_another_plan_is_refused(plan: Path, other: bytes) -> None:
    plan.write_bytes(other)
    with pytest.raises(InputError, match=r"is not the plan that model\.plan\.json describes"):
        sidecar.read(plan)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*model\.plan: No such file"):
        sidecar.read(tmp_path / "model.plan")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is not JSON"),
        ("{", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "no JSON object"),
        ("\udcff", "it is not JSON"),
    ],
)
def test_a_side_car_that_is_none_is_refused(plan: Path, text: str, reason: str) -> None:
    sidecar.sidecar_path(plan).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=reason):
        sidecar.read(plan)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("plan_sha256", "0" * 63),
        ("plan_sha256", "G" * 64),
        ("plan_bytes", -1),
        ("plan_bytes", True),
        ("tensorrt", ""),
        ("tensorrt_version", 11),
        ("systems", []),
        ("systems", "linux"),
        ("compute_capabilities", ["8"]),
        ("compute_capabilities", ["8.x"]),
        ("compute_capabilities", ["8.6.1"]),
        ("gpu", ""),
        ("settings", []),
        ("settings", {"typing": "strong"}),
        ("settings", {"typing": "strong", "flags": 5}),
        ("settings", {"typing": "strong", "flags": [5]}),
        ("settings", {"typing": None, "flags": []}),
        ("profiles", []),
        ("profiles", [1, 2, 3]),
        ("profiles", [[1, 2]]),
        ("profiles", [[4, 2, 1]]),
        ("profiles", [[0, 1, 2]]),
        ("layers", {"fp64": 1}),
        ("layers", {"fp32": -1}),
        ("engine_layers", []),
        ("precision", "fp64"),
        ("inputs", []),
        ("inputs", ["image"]),
        ("inputs", [{"name": "image", "shape": [1]}]),
        ("inputs", [{"name": "image", "shape": [-1], "dtype": "float32"}]),
        ("outputs", [{"name": "logits", "shape": 5, "dtype": "float32"}]),
    ],
)
def test_each_malformed_field_is_named(plan: Path, field: str, value: Any) -> None:
    sidecar.sidecar_path(plan).write_text(json.dumps(KNOWN.to_json() | {field: value}))
    with pytest.raises(InputError, match=f"its field '{field}' is malformed"):
        sidecar.read(plan)


@pytest.mark.parametrize("field", [name for name in KNOWN.to_json() if name != "format"])
def test_each_missing_field_is_named(field: str) -> None:
    value = KNOWN.to_json()
    del value[field]
    with pytest.raises(ValueError, match=f"it lacks the field '{field}'"):
        Sidecar.from_json(value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": "bn-deploy-plan/1"}, "its format is 'bn-deploy-plan/1'"),
        ({"extra": 1}, "unknown field 'extra'"),
    ],
)
def test_another_format_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Sidecar.from_json(KNOWN.to_json() | change)
