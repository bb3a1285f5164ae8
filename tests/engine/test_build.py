"""What build() asks of each TensorRT, driven by fakes in the shape of 8.5, 10.16 and 11.4."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import platformdirs
import pytest

from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.engine.driver import Gpu
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from tests.engine.fake_trt import RTX, VERSIONS, World, make
from tests.engine.models import cnn, quantized, save

OLD, MIDDLE, NEW = VERSIONS


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: cache)
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("NVIDIA Thing", (8, 9), (12, 8)))


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return save(cnn(), tmp_path / "model.onnx")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_leaves_a_plan_and_its_side_car(onnx_path: Path, tmp_path: Path, version: str) -> None:
    world = World(said=[("WARNING", "[a.cpp:1: f] careful."), ("INFO", "chatter")])
    result = build(onnx_path, tmp_path / "model.plan", trt=make(version, world))
    assert (tmp_path / "model.plan").read_bytes() == world.plan
    assert result.sidecar == sidecar.read(tmp_path / "model.plan")
    assert result.size_bytes == len(world.plan or b"")
    assert result.warnings == ("careful",)
    assert result.inputs == (TensorSpec("image", (None, 1, 8, 8), "float32"),)
    assert result.outputs == (TensorSpec("logits", (None, 5), "float32"),)
    assert result.sidecar.tensorrt_version == version
    assert result.sidecar.gpu == "NVIDIA Thing"
    assert result.sidecar.compute_capabilities == ("8.9",)
    assert result.sidecar.profiles == (BatchRange(1, 64, 256),)
    assert world.shapes == {"image": ((1, 1, 8, 8), (64, 1, 8, 8), (256, 1, 8, 8))}


@pytest.mark.parametrize(("version", "flags"), [(OLD, 0b01), (MIDDLE, 0b11), (NEW, 0)])
def test_the_network_is_made_as_each_version_wants_it(
    onnx_path: Path, tmp_path: Path, version: str, flags: int
) -> None:
    world = World()
    build(onnx_path, tmp_path / "model.plan", trt=make(version, world))
    assert world.network_flags == flags


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("version", VERSIONS)
def test_tf32_is_off_unless_asked_for(onnx_path: Path, tmp_path: Path, version: str, tf32: bool) -> None:
    options = BuildOptions(tf32=tf32)
    result = build(onnx_path, tmp_path / "model.plan", options=options, trt=make(version))
    assert result.sidecar.settings["flags"] == (["TF32"] if tf32 else [])


TYPED: dict[Precision, tuple[list[Any], onnx.ModelProto]] = {
    # what is wanted: (the layers that a strongly typed parser makes of the file, the file)
    Precision.FP32: (["FLOAT"], cnn()),
    Precision.FP16: (["FLOAT", ("CONVOLUTION", "HALF", (), "")], cnn(half=True)),
    Precision.INT8: (
        [
            ("DEQUANTIZE", "FLOAT", (), "d"),
            ("CONVOLUTION", "FLOAT", ("d", "d"), "c"),
            ("ACTIVATION", "FLOAT", ("c",), ""),
        ],
        quantized(),
    ),
    Precision.INT8_FP16: (
        [
            ("DEQUANTIZE", "FLOAT", (), "d"),
            ("IDENTITY", "HALF", ("d",), "h"),
            ("CONVOLUTION", "HALF", ("h", "h"), "c"),
            ("MATRIX_MULTIPLY", "HALF", ("c",), ""),
        ],
        quantized(half=True),
    ),
}


@pytest.mark.parametrize("wanted", TYPED)
@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_reduced_precision_is_allowed_by_flag_only_where_types_are_weak(
    tmp_path: Path, version: str, wanted: Precision
) -> None:
    layers, model = TYPED[wanted]
    path = save(model, tmp_path / "typed.onnx")
    options = BuildOptions(precision=wanted)
    result = build(
        path, tmp_path / "model.plan", options=options, trt=make(version, World(layers=list(layers)))
    )
    assert result.sidecar.precision is wanted
    flags = {Precision.FP16: ["FP16"], Precision.INT8: ["INT8"], Precision.INT8_FP16: ["FP16", "INT8"]}
    assert result.sidecar.settings["flags"] == (flags.get(wanted, []) if version == OLD else [])
    assert result.sidecar.typed is (version != OLD)
    assert result.sidecar.settings["profiling_verbosity"] == (
        "DETAILED" if version == OLD else "LAYER_NAMES_ONLY"
    )


@pytest.mark.parametrize("wanted", [Precision.FP16, Precision.BF16, Precision.INT8, Precision.INT8_FP16])
@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_a_precision_that_the_file_does_not_have_is_an_error(
    onnx_path: Path, tmp_path: Path, version: str, wanted: Precision
) -> None:
    options = BuildOptions(precision=wanted)
    with pytest.raises(
        ModelError,
        match=rf"{re.escape(wanted.value)} was asked for, and it computes in fp32 \(layers: 1 in fp32\); "
        r"export it with --precision",
    ):
        build(onnx_path, tmp_path / "model.plan", options=options, trt=make(version))
    assert not (tmp_path / "model.plan").exists()


def test_int8_of_a_float_file_may_be_wanted_with_fp16_where_types_are_weak(tmp_path: Path) -> None:
    path = save(quantized(), tmp_path / "model.onnx")
    options = BuildOptions(precision=Precision.INT8_FP16)
    result = build(path, tmp_path / "model.plan", options=options, trt=make(OLD))
    assert result.sidecar.settings["flags"] == ["FP16", "INT8"]


def inspection(*types: str) -> str:
    return json.dumps({"Layers": [{"Name": "x", "Outputs": [{"Format/Datatype": kind}]} for kind in types]})


@pytest.mark.parametrize("version", VERSIONS)
def test_the_engine_has_the_last_word_on_its_precision(tmp_path: Path, version: str) -> None:
    path, plan = save(cnn(half=True), tmp_path / "model.onnx"), tmp_path / "model.plan"
    options = BuildOptions(precision=Precision.FP16)
    half = ["FLOAT", ("CONVOLUTION", "HALF", (), "")]
    world = World(layers=half, inspected=inspection("Half", "Half", "Float"))
    known = build(path, plan, options=options, trt=make(version, world)).sidecar
    assert known.engine_layers == {Precision.FP16: 2, Precision.FP32: 1}
    assert known.layers == {Precision.FP32: 1, Precision.FP16: 1}
    assert world.host_code_allowed is (version != OLD)
    before = plan.read_bytes()
    world = World(layers=half, inspected=inspection("Float"), plan=b"another")
    with pytest.raises(ModelError, match=r"computes in fp32 \(layers: 1 in fp32\)"):
        build(path, plan, options=options, trt=make(version, world))
    assert plan.read_bytes() == before


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


def test_a_static_network_keeps_its_batch_and_needs_no_profile(tmp_path: Path) -> None:
    world = World(inputs=[("image", (2, 1, 8, 8), "FLOAT")], outputs=[("logits", (2, 5), "FLOAT")])
    path = save(cnn(2), tmp_path / "model.onnx")
    for wanted in (None, BatchRange(2, 2, 2)):
        options = BuildOptions(batch=wanted)
        result = build(path, tmp_path / "model.plan", options=options, trt=make(NEW, world))
        assert result.sidecar.profiles == (BatchRange(2, 2, 2),)
    assert world.shapes == {}


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


DYNAMIC_SIDE = World(inputs=[("image", (-1, 1, -1, 8), "FLOAT")])
STATIC = World(inputs=[("image", (2, 1, 8, 8), "FLOAT")])


@pytest.mark.parametrize(
    ("world", "batch", "reason"),
    [
        (World(errors=[{"desc": "no", "name": "a", "operator": "B"}]), None, r'node "a" \(B\): no$'),
        (World(errors=[{"desc": "x"}, {"desc": "y"}]), None, "x; y$"),
        (World(plan=None, said=[("ERROR", "Error Code 4: Thing (why. In f at a.cpp:1)")]), None, ": why$"),
        (World(plan=None, said=[("WARNING", "hint")]), None, ": hint$"),
        (World(plan=None), None, "it gave no reason"),
        (World(profile=-1), None, "the batch range 1:64:256 was refused"),
        (World(layers=["INT64"]), None, "computes in none of"),
        (
            DYNAMIC_SIDE,
            None,
            r"input image float32 \(N x 1 x N x 8\) has a dynamic axis that is not the first",
        ),
        (STATIC, BatchRange(1, 2, 4), "its batch is fixed at 2, so 1:2:4 cannot be had"),
        (World(outputs=[("logits", (-1, 5), "BF16")]), None, "tensor logits has the type BF16"),
    ],
)
def test_each_failure_is_one_line_and_leaves_the_old_plan(
    onnx_path: Path, tmp_path: Path, world: World, batch: BatchRange | None, reason: str
) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"old")
    with pytest.raises(ModelError, match=reason) as refusal:
        build(onnx_path, plan, options=BuildOptions(batch=batch), trt=make(NEW, world))
    assert str(refusal.value).startswith(f"TensorRT {NEW} cannot build {onnx_path}: ")
    assert "\n" not in str(refusal.value)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.plan"]


def test_a_precision_without_its_flag_cannot_be_built_weakly(tmp_path: Path) -> None:
    half = make(OLD)
    half.module.BuilderFlag = SimpleNamespace(__members__={"TF32": half.module.BuilderFlag.TF32})
    path = save(cnn(half=True), tmp_path / "half.onnx")
    with pytest.raises(ModelError, match=r"computes in fp16, which TensorRT 8\.5\.3\.1 does not know"):
        build(path, tmp_path / "model.plan", trt=half)


def test_no_gpu_is_told_before_the_builder_is_touched(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no driver")
    world = World()
    with pytest.raises(
        NotAvailable, match=r"builds only where there is a GPU: no driver; .*bn-deploy\[rtx\]"
    ):
        build(onnx_path, tmp_path / "model.plan", trt=make(NEW, world))
    assert world.network_flags is None


def test_a_builder_that_does_not_start_says_why(onnx_path: Path, tmp_path: Path) -> None:
    world = World(starts=False, said=[("ERROR", "CUDA initialization failure with error: 35")])
    with pytest.raises(NotAvailable, match="cannot start its builder: CUDA initialization failure"):
        build(onnx_path, tmp_path / "model.plan", trt=make(NEW, world))


def test_the_plan_cannot_replace_its_onnx_file(onnx_path: Path) -> None:
    before = onnx_path.read_bytes()
    with pytest.raises(InputError, match="cannot take the place of"):
        build(onnx_path, onnx_path, trt=make(NEW))
    assert onnx_path.read_bytes() == before
