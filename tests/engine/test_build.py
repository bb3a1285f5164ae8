"""What build() asks of each TensorRT, driven by fakes in the shape of 8.5, 10.16 and 11.4."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.engine.support import dry_run
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from tests.engine.fake_trt import RTX, VERSIONS, World, make
from tests.engine.models import cnn, quantized, save

OLD, MIDDLE, NEW = VERSIONS

pytestmark = pytest.mark.usefixtures("a_gpu")


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


def test_a_static_network_keeps_its_batch_and_needs_no_profile(tmp_path: Path) -> None:
    world = World(inputs=[("image", (2, 1, 8, 8), "FLOAT")], outputs=[("logits", (2, 5), "FLOAT")])
    path = save(cnn(2), tmp_path / "model.onnx")
    for wanted in (None, BatchRange(2, 2, 2)):
        options = BuildOptions(batch=wanted)
        result = build(path, tmp_path / "model.plan", options=options, trt=make(NEW, world))
        assert result.sidecar.profiles == (BatchRange(2, 2, 2),)
    assert world.shapes == {}


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


def test_the_lean_runtime_says_that_it_cannot_build(onnx_path: Path, tmp_path: Path) -> None:
    lean = api.TensorRT("tensorrt_lean", SimpleNamespace(__version__="11.4"))
    for act in (
        lambda: build(onnx_path, tmp_path / "model.plan", trt=lean),
        lambda: dry_run(onnx_path, trt=lean),
    ):
        with pytest.raises(
            NotAvailable, match=r"lean runtime 11\.4 only runs plans .*bn-deploy\[gpu\].*\[rtx\]"
        ):
            act()


def test_a_builder_that_does_not_start_says_why(onnx_path: Path, tmp_path: Path) -> None:
    world = World(starts=False, said=[("ERROR", "CUDA initialization failure with error: 35")])
    with pytest.raises(NotAvailable, match="cannot start its builder: CUDA initialization failure"):
        build(onnx_path, tmp_path / "model.plan", trt=make(NEW, world))


def test_the_plan_cannot_replace_its_onnx_file(onnx_path: Path) -> None:
    before = onnx_path.read_bytes()
    with pytest.raises(InputError, match="cannot take the place of"):
        build(onnx_path, onnx_path, trt=make(NEW))
    assert onnx_path.read_bytes() == before
