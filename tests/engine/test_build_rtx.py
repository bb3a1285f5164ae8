"""Real builds: TensorRT-RTX parses and compiles without a GPU and without a driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import NodeProto, helper

from bn_deploy.artifact import sha256_file
from bn_deploy.engine import profiles, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.errors import InputError, ModelError
from bn_deploy.spec import BatchRange, Precision, T, TensorSpec
from tests.engine.models import cnn, quantized, save
from tests.engine.zoo import FORMS, NETWORKS


def test_a_dynamic_network_becomes_a_plan_with_its_side_car(rtx: TensorRT, tmp_path: Path) -> None:
    onnx_path, plan = save(cnn(), tmp_path / "model.onnx"), tmp_path / "new folder" / "model.plan"
    before = onnx_path.read_bytes()
    result = build(onnx_path, plan, trt=rtx)
    assert onnx_path.read_bytes() == before
    assert plan.stat().st_size == result.size_bytes > 1000
    assert result.sidecar_path == plan.parent / "model.plan.json"
    known = sidecar.read(plan)
    assert known == result.sidecar
    assert known.plan_sha256 == sha256_file(plan)
    assert known.onnx_sha256 == sha256_file(onnx_path)
    assert (known.tensorrt, known.tensorrt_version) == ("tensorrt_rtx", rtx.version)
    assert known.compute_capabilities == ("8.0+",)
    assert known.gpu is None
    assert known.profiles == (BatchRange(1, 64, 256),)
    assert known.precision is Precision.FP32
    assert known.settings["flags"] == []  # TensorRT's own default is TF32
    assert known.settings["typing"] == "strong"
    assert known.inputs == (TensorSpec("image", (None, 1, 8, 8), "float32"),)
    assert known.outputs == (TensorSpec("logits", (None, 5), "float32"),)
    assert result.warnings == ()


def test_building_again_gives_the_same_bytes(rtx: TensorRT, tmp_path: Path) -> None:
    onnx_path = save(cnn(), tmp_path / "model.onnx")
    first, second = (build(onnx_path, tmp_path / name, trt=rtx) for name in ("first.plan", "second.plan"))
    assert first.plan_path.read_bytes() == second.plan_path.read_bytes()
    assert first.sidecar_path.read_bytes() == second.sidecar_path.read_bytes()


def test_every_option_arrives(rtx: TensorRT, tmp_path: Path) -> None:
    options = BuildOptions(
        batch=BatchRange(2, 4, 8),
        workspace_bytes=1 << 28,
        tf32=True,
        optimization_level=1,
        compute_capabilities=("8.6", "8.9"),
    )
    result = build(save(cnn(), tmp_path / "model.onnx"), tmp_path / "model.plan", options=options, trt=rtx)
    assert result.sidecar.profiles == options.profiles
    assert result.sidecar.compute_capabilities == options.compute_capabilities
    assert result.sidecar.settings["flags"] == ["TF32"]
    assert result.sidecar.settings["workspace_bytes"] == options.workspace_bytes
    assert result.sidecar.settings["optimization_level"] == options.optimization_level


def test_several_batch_ranges_become_one_plan(rtx: TensorRT, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    one = build(path, tmp_path / "one.plan", options=BuildOptions(BatchRange(1, 1, 1)), trt=rtx)
    ranges = (BatchRange(1, 1, 1), BatchRange(2, 32, 256))
    two = build(path, tmp_path / "two.plan", options=BuildOptions(ranges), trt=rtx)
    assert two.sidecar.profiles == ranges
    assert two.size_bytes > one.size_bytes


def test_what_is_missing_is_recorded_and_detail_is_on_request(rtx: TensorRT, tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    plain = build(path, tmp_path / "a.plan", trt=rtx).sidecar.settings
    detailed = build(path, tmp_path / "b.plan", options=BuildOptions(detailed=True), trt=rtx).sidecar.settings
    assert (plain["profiling_verbosity"], detailed["profiling_verbosity"]) == (
        "LAYER_NAMES_ONLY",
        "DETAILED",
    )
    assert "timing_cache" in plain["not_available"]
    assert plain["timing_cache"] is False


def test_progress_is_shown_to_the_end(rtx: TensorRT, tmp_path: Path) -> None:
    seen = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for count, item in enumerate(items, 1):
            seen.append((description, count, total))
            yield item

    build(save(cnn(), tmp_path / "model.onnx"), tmp_path / "model.plan", trt=rtx, track=track)
    assert seen[0] == ("building the engine", 1, 100)
    assert seen[-1] == ("building the engine", 100, 100)


# TensorRT-RTX 1.7 has no transposed convolution in bf16, and finds that out when it builds.
CASES = [
    (name, form) for name in NETWORKS for form in FORMS if (name, form) != ("transposed", Precision.BF16)
]


def test_what_only_the_builder_cannot_do_is_told_in_one_line(rtx: TensorRT, tmp_path: Path) -> None:
    path = save(NETWORKS["transposed"](Precision.BF16, 2), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"cannot build .*convtranspose_3") as refusal:
        build(path, tmp_path / "model.plan", trt=rtx)
    assert len(str(refusal.value)) < 1000
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(("network", "form"), CASES, ids=lambda value: getattr(value, "value", value))
def test_small_networks_in_every_precision(
    rtx: TensorRT, tmp_path: Path, network: str, form: Precision
) -> None:
    # Dynamic and static in turns, so that each network and each precision comes as both.
    batch = ("batch", 2)[(list(NETWORKS).index(network) + FORMS.index(form)) % 2]
    path = save(NETWORKS[network](form, batch), tmp_path / "model.onnx")
    result = build(path, tmp_path / "model.plan", options=BuildOptions(precision=form), trt=rtx)
    known = result.sidecar
    assert known.precision is form
    assert known.profiles == ((BatchRange(1, 64, 256),) if batch == "batch" else (BatchRange(2, 2, 2),))
    assert known.layers[Precision.INT8 if form is Precision.INT8_FP16 else form] >= 2
    assert result.inputs[0].dtype == result.outputs[0].dtype == "float32"
    assert sidecar.read(result.plan_path) == known


def test_a_wanted_precision_must_be_that_of_the_file(rtx: TensorRT, tmp_path: Path) -> None:
    path = save(NETWORKS["plain"](Precision.FP32, "batch"), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="fp16 was asked for, and it computes in fp32"):
        build(path, tmp_path / "m.plan", options=BuildOptions(precision=Precision.FP16), trt=rtx)
    assert not (tmp_path / "m.plan").exists()


def test_a_static_network_keeps_its_batch(rtx: TensorRT, tmp_path: Path) -> None:
    onnx_path = save(cnn(3), tmp_path / "model.onnx")
    result = build(onnx_path, tmp_path / "model.plan", trt=rtx)
    assert result.sidecar.profiles == (BatchRange(3, 3, 3),)
    assert result.inputs[0].shape == (3, 1, 8, 8)
    options = BuildOptions(batch=BatchRange(1, 2, 4))
    with pytest.raises(ModelError, match="its batch is fixed at 3"):
        build(onnx_path, tmp_path / "model.plan", options=options, trt=rtx)


def unknown_operator(nodes: list[NodeProto]) -> list[NodeProto]:
    nodes[1] = helper.make_node("Foo", ["c"], ["s"], name="mystery", domain="unheard.of")
    return nodes


def unsupported_operator(nodes: list[NodeProto]) -> list[NodeProto]:
    return [*nodes, helper.make_node("Det", ["image"], ["d"], name="det")]


def no_such_operator(nodes: list[NodeProto]) -> list[NodeProto]:
    return [*nodes, helper.make_node("Nope", ["c"], ["n"])]


def mixed_types(nodes: list[NodeProto]) -> list[NodeProto]:
    half = helper.make_node("Cast", ["c"], ["h"], to=onnx.TensorProto.FLOAT16)
    return [nodes[0], half, helper.make_node("Add", ["c", "h"], ["s"], name="mix"), *nodes[2:]]


def weights_elsewhere() -> bytes:
    model = cnn()
    weight = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(weight, "weights.bin")
    weight.ClearField("raw_data")
    return raw(model)


def raw(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "unknown operator": (
        lambda: raw(cnn(nodes=unknown_operator)),
        r'cannot build .*: node "mystery" \(Foo\): this TensorRT has no importer for the operator',
    ),
    "unsupported operator": (
        lambda: raw(cnn(nodes=unsupported_operator)),
        r'cannot build .*: node "det" \(Det\): unsupported node$',
    ),
    "mixed types": (
        lambda: raw(cnn(nodes=mixed_types)),
        r'cannot build .*: node "mix" \(Add\): .*must have same input types.* Float and Half$',
    ),
    "asymmetric quantisation": (
        lambda: raw(quantized(zero_point=3)),
        r'cannot build .*: node "qx" \(QuantizeLinear\): Non-zero zero point is not supported',
    ),
    "another dynamic axis": (
        lambda: raw(cnn(side="side")),
        r"cannot build .*: input image float32 \(N x 1 x N x N\) has a dynamic axis",
    ),
    "text": (lambda: b"this is no model", "is not an ONNX file$"),
    "empty": (lambda: b"", "is not a valid ONNX file: .*ir_version"),
    "truncated": (lambda: raw(cnn())[:-400], "is not an ONNX file$"),
    "no such operator": (
        lambda: raw(cnn(nodes=lambda nodes: [*nodes, helper.make_node("Nope", ["c"], ["n"])])),
        "is not a valid ONNX file: No Op registered for Nope",
    ),
    "weights elsewhere": (weights_elsewhere, "keeps the weight 'w1' in another file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_model_is_one_clear_line_and_leaves_the_old_plan(
    rtx: TensorRT, tmp_path: Path, kind: str
) -> None:
    make, reason = BROKEN[kind]
    onnx_path, plan = tmp_path / "model.onnx", tmp_path / "model.plan"
    onnx_path.write_bytes(make())
    plan.write_bytes(b"old")
    with pytest.raises(ModelError, match=reason) as refusal:
        build(onnx_path, plan, trt=rtx)
    assert "\n" not in str(refusal.value)
    assert plan.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.plan"]


def test_a_missing_profile_is_a_builder_error(
    rtx: TensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiles, "add", lambda *_: None)
    with pytest.raises(ModelError, match=r"cannot build .*: Network has dynamic .*no optimization profile"):
        build(save(cnn(), tmp_path / "model.onnx"), tmp_path / "model.plan", trt=rtx)


def test_a_builder_error_reaches_the_user(rtx: TensorRT, tmp_path: Path) -> None:
    options = BuildOptions(workspace_bytes=1)
    with pytest.raises(ModelError, match=r"cannot build .*workspace"):
        build(save(cnn(), tmp_path / "model.onnx"), tmp_path / "model.plan", options=options, trt=rtx)
    assert not (tmp_path / "model.plan").exists()


def test_an_unknown_target_names_the_known_ones(rtx: TensorRT, tmp_path: Path) -> None:
    options = BuildOptions(compute_capabilities=("8.6", "3.5"))
    with pytest.raises(InputError, match=r"cannot build for 3\.5; it knows .*8\.6"):
        build(save(cnn(), tmp_path / "model.onnx"), tmp_path / "model.plan", options=options, trt=rtx)


def test_a_missing_file_is_named(rtx: TensorRT, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*nowhere\.onnx: No such file"):
        build(tmp_path / "nowhere.onnx", tmp_path / "model.plan", trt=rtx)
