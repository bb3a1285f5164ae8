"""What build() asks of each TensorRT, driven by fakes in the shape of 8.5, 10.16 and 11.4."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from bn_deploy.engine import driver, sidecar
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.engine.driver import Gpu
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from tests.engine.fake_trt import VERSIONS, World, make
from tests.engine.models import cnn, save

OLD, MIDDLE, NEW = VERSIONS


@pytest.fixture(autouse=True)
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert result.sidecar.batch == BatchRange(1, 64, 256)
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


@pytest.mark.parametrize(
    ("version", "layer", "precision"),
    [
        (OLD, "FLOAT", Precision.FP32),
        (OLD, "HALF", Precision.FP16),
        (OLD, "INT8", Precision.INT8),
        (MIDDLE, "HALF", Precision.FP16),
        (MIDDLE, "BF16", Precision.BF16),
        (NEW, "INT8", Precision.INT8),
    ],
)
def test_reduced_precision_is_allowed_by_flag_only_where_types_are_weak(
    onnx_path: Path, tmp_path: Path, version: str, layer: str, precision: Precision
) -> None:
    result = build(onnx_path, tmp_path / "model.plan", trt=make(version, World(layers=["FLOAT", layer])))
    assert result.sidecar.precision is precision
    weak = version == OLD and precision is not Precision.FP32
    assert result.sidecar.settings["flags"] == ([precision.name] if weak else [])
    assert result.sidecar.typed is (version != OLD)


def test_settings_are_those_of_the_builder_by_name(onnx_path: Path, tmp_path: Path) -> None:
    options = BuildOptions(workspace_bytes=1 << 20, optimization_level=5, batch=BatchRange(2, 4, 8))
    result = build(onnx_path, tmp_path / "model.plan", options=options, trt=make(MIDDLE))
    assert result.sidecar.batch == BatchRange(2, 4, 8)
    assert result.sidecar.settings == {
        "typing": "strong",
        "flags": [],
        "profiling_verbosity": "DETAILED",
        "workspace_bytes": 1 << 20,
        "optimization_level": 5,
    }


def test_a_static_network_keeps_its_batch_and_needs_no_profile(tmp_path: Path) -> None:
    world = World(inputs=[("image", (2, 1, 8, 8), "FLOAT")], outputs=[("logits", (2, 5), "FLOAT")])
    path = save(cnn(2), tmp_path / "model.onnx")
    for wanted in (None, BatchRange(2, 2, 2)):
        options = BuildOptions(batch=wanted)
        result = build(path, tmp_path / "model.plan", options=options, trt=make(NEW, world))
        assert result.sidecar.batch == BatchRange(2, 2, 2)
    assert world.shapes == {}


@pytest.mark.parametrize(
    ("version", "options", "reason"),
    [
        (OLD, BuildOptions(optimization_level=3), "TensorRT 8.5.3.1 has no optimization level"),
        (NEW, BuildOptions(compute_capabilities=("8.9",)), "cannot be told a compute capability"),
    ],
)
def test_a_choice_that_this_tensorrt_lacks_is_an_error(
    onnx_path: Path, tmp_path: Path, version: str, options: BuildOptions, reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        build(onnx_path, tmp_path / "model.plan", options=options, trt=make(version))


def test_without_a_tf32_flag_tf32_cannot_be_asked_for(
    onnx_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = make(NEW)
    monkeypatch.setattr(type(trt), "has_tf32_flag", False)
    build(onnx_path, tmp_path / "model.plan", trt=trt)
    with pytest.raises(InputError, match="has no TF32 flag"):
        build(onnx_path, tmp_path / "model.plan", options=BuildOptions(tf32=True), trt=trt)


@pytest.mark.parametrize(
    "wrong", [{"workspace_bytes": 0}, {"optimization_level": 6}, {"compute_capabilities": ()}], ids=str
)
def test_senseless_options_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|at least one"):
        BuildOptions(**wrong)  # type: ignore[arg-type]  # wrong on purpose


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


def test_a_precision_without_its_flag_cannot_be_built_weakly(onnx_path: Path, tmp_path: Path) -> None:
    half = make(OLD, World(layers=["HALF"]))
    half.module.BuilderFlag = SimpleNamespace(__members__={"TF32": half.module.BuilderFlag.TF32})
    with pytest.raises(ModelError, match=r"computes in fp16, which TensorRT 8\.5\.3\.1 does not know"):
        build(onnx_path, tmp_path / "model.plan", trt=half)


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
