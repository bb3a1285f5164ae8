"""What may be chosen about a build, and what each TensorRT makes of it, driven by the same fakes."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.errors import InputError, NotAvailable
from bn_deploy.spec import BatchRange
from tests.engine.fake_trt import RTX, VERSIONS, World, make

OLD, MIDDLE, NEW = VERSIONS

pytestmark = pytest.mark.usefixtures("a_gpu")


def test_settings_are_those_of_the_builder_by_name(onnx_path: Path, tmp_path: Path) -> None:
    batch = BatchRange(2, 4, 8)
    options = BuildOptions(batch, workspace_bytes=1 << 20, optimization_level=5, timing_cache=False)
    result = build(onnx_path, tmp_path / "model.plan", options=options, trt=make(MIDDLE))
    assert result.sidecar.profiles == (BatchRange(2, 4, 8),)
    assert result.sidecar.settings == {
        "typing": "strong",
        "flags": [],
        "profiling_verbosity": "LAYER_NAMES_ONLY",
        "workspace_bytes": 1 << 20,
        "optimization_level": 5,
        "hardware_compatibility": "NONE",
        "timing_cache": False,
        "not_available": {
            "compute_capabilities": "TensorRT 10.16.1.11 has no choice of compute capabilities: "
            "it builds for the GPU that is here",
        },
    }


AMPERE = BuildOptions(hardware_compatible="ampere+")
PORTABLE = BuildOptions(version_compatible=True, exclude_lean_runtime=True)


@pytest.mark.parametrize(
    ("version", "options", "reason"),
    [
        (OLD, BuildOptions(optimization_level=3), "TensorRT 8.5.3.1 has no optimization level$"),
        (OLD, AMPERE, "TensorRT 8.5.3.1 has no hardware compatibility level AMPERE_PLUS$"),
        (OLD, PORTABLE, "TensorRT 8.5.3.1 has no version-compatible plans$"),
        (NEW, BuildOptions(compute_capabilities=("8.9",)), "has no choice of compute capabilities"),
        (RTX, BuildOptions(compute_capabilities=("3.5",)), r"cannot build for 3\.5; it knows .*8\.6"),
        (RTX, AMPERE, "has no hardware compatibility level AMPERE_PLUS: its kernels are made where"),
        (RTX, PORTABLE, "has no version-compatible plans: its kernels are made where the plan runs"),
        (RTX, BuildOptions(timing_cache=True), "has no timing cache: its kernels are made where"),
    ],
)
def test_a_choice_that_this_tensorrt_lacks_is_an_error(
    onnx_path: Path, tmp_path: Path, version: str, options: BuildOptions, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        build(onnx_path, tmp_path / "model.plan", options=options, trt=make(version))


@pytest.mark.parametrize(
    ("version", "lacking"),
    [
        (
            OLD,
            "optimization_level compute_capabilities version_compatible "  # noqa: ISC004 - one text
            "hardware_compatible_ampere+ hardware_compatible_same progress",
        ),
        (MIDDLE, "compute_capabilities"),
        (NEW, "compute_capabilities"),
        (RTX, "version_compatible hardware_compatible_ampere+ hardware_compatible_same timing_cache"),
    ],
)
def test_what_was_not_asked_for_and_is_not_there_is_recorded(
    onnx_path: Path, tmp_path: Path, version: str, lacking: str
) -> None:
    result = build(onnx_path, tmp_path / "model.plan", trt=make(version))
    assert list(result.sidecar.settings["not_available"]) == lacking.split()


@pytest.mark.parametrize("version", [MIDDLE, NEW])
def test_a_plan_for_other_versions_and_other_gpus(onnx_path: Path, tmp_path: Path, version: str) -> None:
    options = replace(PORTABLE, hardware_compatible="ampere+", detailed=True)
    known = build(onnx_path, tmp_path / "model.plan", options=options, trt=make(version)).sidecar
    assert known.settings["flags"] == ["EXCLUDE_LEAN_RUNTIME", "VERSION_COMPATIBLE"]
    assert known.settings["hardware_compatibility"] == "AMPERE_PLUS"
    assert known.settings["profiling_verbosity"] == "DETAILED"
    assert known.compute_capabilities == ("8.0+",)
    assert (known.version_compatible, known.carries_host_code, known.needs_lean_runtime) == (
        True,
        False,
        True,
    )


def test_targets_can_be_named_where_a_version_takes_them(onnx_path: Path, tmp_path: Path) -> None:
    world = World()
    options = BuildOptions(compute_capabilities=("8.6", "8.9"))
    known = build(onnx_path, tmp_path / "model.plan", options=options, trt=make(RTX, world)).sidecar
    assert known.compute_capabilities == ("8.6", "8.9")
    assert [world.targets[index].name for index in (0, 1)] == ["SM86", "SM89"]


def test_a_profile_for_each_batch_range(onnx_path: Path, tmp_path: Path) -> None:
    world = World()
    ranges = (BatchRange(1, 1, 1), BatchRange(2, 32, 64))
    result = build(onnx_path, tmp_path / "model.plan", options=BuildOptions(ranges), trt=make(NEW, world))
    assert world.profiles == 2
    assert result.sidecar.profiles == ranges == sidecar.read(tmp_path / "model.plan").profiles


def test_a_flag_for_a_build_without_a_gpu_is_used_where_a_target_can_be_named(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no driver")
    trt = make(RTX)
    monkeypatch.delattr(trt.module, "IRuntimeCache")  # its kernels are made when it builds
    flags = {name: flag.value for name, flag in trt.module.BuilderFlag.__members__.items()}
    monkeypatch.setattr(trt.module, "BuilderFlag", IntEnum("BuilderFlag", {**flags, "CPU_ONLY": 40}))
    with pytest.raises(NotAvailable, match=r"there is no GPU for .* to build for; name one with --target"):
        build(onnx_path, tmp_path / "model.plan", trt=trt)
    options = BuildOptions(compute_capabilities=("8.9",))
    known = build(onnx_path, tmp_path / "model.plan", options=options, trt=trt).sidecar
    assert known.settings["flags"] == ["CPU_ONLY"]
    assert known.systems == (api.operating_system(),)


def test_without_a_tf32_flag_tf32_cannot_be_asked_for(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = make(NEW)
    monkeypatch.setattr(type(trt), "has_tf32_flag", False)
    build(onnx_path, tmp_path / "model.plan", trt=trt)
    with pytest.raises(InputError, match="has no TF32 flag"):
        build(onnx_path, tmp_path / "model.plan", options=BuildOptions(tf32=True), trt=trt)


@pytest.mark.parametrize(
    "wrong",
    [
        {"workspace_bytes": 0},
        {"optimization_level": 6},
        {"compute_capabilities": ()},
        {"hardware_compatible": "all"},
        {"exclude_lean_runtime": True},
        {"batch": (BatchRange(1, 1, 1), BatchRange(1, 1, 1))},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_senseless_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least one|only a version-compatible|twice"):
        BuildOptions(**wrong)
