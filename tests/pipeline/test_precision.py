"""Typed files of a run: written beside the fp32 one, chained to it, built from and verified."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from bn_deploy import data
from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json
from bn_deploy.data import synthetic
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.engine import api
from bn_deploy.engine.options import BuildOptions
from bn_deploy.errors import DataError, InputError, NotAvailable, RunFolderError
from bn_deploy.pipeline.make import build, export, train
from bn_deploy.pipeline.precision import calibration_images, give_precision, typed_forms
from bn_deploy.pipeline.verification import verify
from bn_deploy.precision.typed import digest
from bn_deploy.report.precision import precision_text
from bn_deploy.report.verification import parity_text
from bn_deploy.run_folder import TYPED, RunFolder, of_precision
from bn_deploy.spec import BatchRange, Precision, ancestors
from bn_deploy.train.recipe import Recipe
from bn_deploy.verify.parity import Parity


def dataset() -> Dataset:
    return synthetic.make(600, 200)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that has learnt something, in every precision. Not to be changed."""
    run = RunFolder(tmp_path_factory.mktemp("run"))
    train(run, dataset(), Recipe(epochs=3, batch=64, statistics_images=200), norm="torch")
    export(run, checkpoint=None, fold_bn=True)
    for precision in TYPED:
        give_precision(run, precision, images=100, dataset=dataset())
    return run.root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(made, tmp_path / "run")))


def folded(precision: Precision) -> str:
    return of_precision(kinds.FOLDED, precision)


@pytest.mark.parametrize("precision", TYPED)
def test_a_typed_file_is_chained_to_the_fp32_one_and_to_the_data(
    run: RunFolder, precision: Precision
) -> None:
    artifact = run.require(folded(precision))
    assert artifact.path == run.root / f"model.folded.{precision.value}.onnx"
    assert artifact.made_by == f"bn-deploy export --fold-bn --precision {precision.value}"
    source = run.require(kinds.FOLDED)
    assert artifact.made_from == {kinds.FOLDED: source.sha256, "dataset.synthetic": dataset().digest}
    images = dataset().train.images[np.linspace(0, 599, 100).astype(int)]
    assert artifact.facts["calibration"]["sha256"] == digest(images)
    told = {entry.key: entry.value for entry in onnx.load(artifact.path).metadata_props}
    assert told["bn_deploy.checkpoint_sha256"] == source.made_from[kinds.CHECKPOINT]
    assert told["bn_deploy.calibration_sha256"] == digest(images)
    text = precision_text(artifact.facts, "FILE")
    assert text.startswith(f"FILE: {precision.value}")
    assert "100 training images, SHA-256" in text
    assert "no operator stays wider" in text or "stays wider: " in text


def test_every_typed_file_is_verified_in_its_class_of_numbers(run: RunFolder) -> None:
    parity = verify(run, dataset=dataset(), localise=True)
    assert parity.failed is None
    seen = {row.stage for row in parity.layers}
    assert seen == {stage.stage for stage in parity.stages[1:]}, "every form is looked into"
    assert all(parity.first_layer(stage) is None for stage in parity.stages)
    stages = {stage.stage: stage for stage in parity.stages}
    fp32 = stages["onnx"]
    for precision in TYPED:
        stage = stages[f"onnx.{precision.value}"]
        assert stage.precision == precision.value
        assert stage.provider == "CPUExecutionProvider, emulated"
        assert stage.rms > 100 * fp32.rms
        assert abs(stage.accuracy - fp32.accuracy) <= 0.03  # of 200 images
        assert stage.budget.observed <= stage.budget.high
        assert parity.digests[folded(precision)] == run.require(folded(precision)).sha256
        assert f"onnx/onnx.{precision.value}" in {step.name for step in parity.steps}
    text = parity_text(parity)
    assert "emulated: in float32" in text
    assert "onnx.int8: emulated, values marked as outputs" in text
    assert "no layer is off" in text
    assert text.count("measured errors and margins allow for") >= len(TYPED)
    assert Parity.from_json(read_json(run.path(kinds.PARITY))) == parity


def test_a_typed_file_that_computes_something_else_is_named(run: RunFolder) -> None:
    """One weight of the fp16 file is off; the others pass."""
    kind = folded(Precision.FP16)
    path = run.path(kind)
    model = onnx.load(path)
    tensor = next(
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16 and len(t.dims) > 1
    )
    array = onnx.numpy_helper.to_array(tensor).copy()
    array *= np.float16(1.05)
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    path.write_bytes(model.SerializeToString())
    run.record(kind, made_from=run.require(kinds.FOLDED).made_from)
    parity = verify(run, dataset=dataset(), localise=True)
    assert parity.failed == "onnx/onnx.fp16"
    assert [s.stage for s in parity.stages if not parity.passes(s)] == ["onnx.fp16"]
    first = {stage.stage: parity.first_layer(stage) for stage in parity.stages}
    assert first.pop("onnx.fp16") == tensor.name.removesuffix(".weight")
    assert set(first.values()) == {None}


@pytest.mark.parametrize(
    ("key", "value", "seen"),
    [
        ("bn_deploy.calibration_sha256", "0" * 64, "it was calibrated on 000000000000"),
        ("bn_deploy.calibration_images", "99", "the 99 training images have the SHA-256"),
        ("bn_deploy.calibration_images", "601", "calibrated on 601 images, of 600"),
        ("bn_deploy.calibration_images", "some", "calibrated on some images, of 600"),
    ],
)
def test_a_file_that_was_calibrated_on_other_images_trips_a_wire(
    run: RunFolder, key: str, value: str, seen: str
) -> None:
    kind = folded(Precision.INT8)
    model = onnx.load(run.path(kind))
    next(entry for entry in model.metadata_props if entry.key == key).value = value
    run.path(kind).write_bytes(model.SerializeToString())
    run.record(kind, made_from=run.require(kinds.FOLDED).made_from)
    with ExitStack() as stack:
        (trip,) = typed_forms(run, dataset(), stack, threads=1).trips
    assert (trip.stage, trip.wire) == ("onnx.int8", "calibration")
    assert seen in trip.seen


def test_calibration_images_are_training_images_from_everywhere() -> None:
    whole = dataset()
    chosen = calibration_images(whole, 60)
    assert len(chosen) == 60
    assert (chosen[0] == whole.train.images[0]).all()
    assert (chosen[-1] == whole.train.images[-1]).all()
    tests = {image.tobytes() for image in whole.test.images}
    assert not any(image.tobytes() in tests for image in chosen)


def test_typed_files_and_plans_of_another_network_are_forgotten(run: RunFolder) -> None:
    for precision, origin in ((Precision.FP16, run.require(kinds.FOLDED).sha256), (Precision.INT8, "0" * 64)):
        run.record(folded(precision), made_from={kinds.FOLDED: origin})
        run.path(of_precision(kinds.PLAN, precision)).write_bytes(b"plan")
        run.record(of_precision(kinds.PLAN, precision), made_from={})
    with pytest.raises(RunFolderError, match=r"was made from another model\.folded\.onnx"):
        run.require(folded(Precision.INT8))
    export(run, checkpoint=None, fold_bn=True, check=False)
    for kind in (kinds.FOLDED, kinds.PLAN):
        assert run.find(of_precision(kind, Precision.FP16)) is not None
        assert run.find(of_precision(kind, Precision.INT8)) is None
    with pytest.raises(RunFolderError, match=r"`bn-deploy export --fold-bn --precision int8` makes it"):
        build(run, BuildOptions(precision=Precision.INT8))


def test_an_engine_is_built_from_the_file_of_its_precision(run: RunFolder) -> None:
    try:
        api.find("tensorrt_rtx")
    except NotAvailable as reason:
        pytest.skip(str(reason))
    result = build(run, BuildOptions(BatchRange(1, 2, 4), precision=Precision.FP16))
    assert result.plan_path == run.root / "model.fp16.plan"
    plan = run.require(of_precision(kinds.PLAN, Precision.FP16))
    assert plan.made_from == {folded(Precision.FP16): run.require(folded(Precision.FP16)).sha256}
    assert plan.facts["precision"] == "fp16"
    assert run.require(of_precision(kinds.SIDECAR, Precision.FP16)).path.name == "model.fp16.plan.json"
    assert run.find(kinds.PLAN) is None
    parity = verify(run, dataset=dataset())
    assert {"engine", "engine.fp16"} == set(parity.unavailable)
    with ExitStack() as stack, pytest.raises(NotAvailable):
        typed_forms(run, dataset(), stack, threads=1, require_engine=True)


@pytest.mark.parametrize("images", [0, 601])
def test_more_images_than_there_are_cannot_be_calibrated_on(run: RunFolder, images: int) -> None:
    with pytest.raises(
        InputError, match=f"synthetic has 600 training images; calibrating on {images} is not"
    ):
        give_precision(run, Precision.INT8, images=images, dataset=dataset())


def test_other_data_than_the_checkpoints_are_refused(run: RunFolder) -> None:
    with pytest.raises(DataError, match="is not the one that the checkpoint was trained on"):
        give_precision(run, Precision.INT8, dataset=replace(dataset(), digest="0" * 64))


def test_a_precision_is_that_of_the_folded_network(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="only the folded network is written in int8"):
        export(run, checkpoint=None, fold_bn=False, precision=Precision.INT8)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset())
    wanted = {"precision": Precision.INT8, "calibration_images": 50}
    exported = export(run, checkpoint=None, fold_bn=True, check=False, **wanted)  # type: ignore[arg-type]
    assert exported.typed is not None
    assert exported.typed.model.calibration["images"] == 50
    assert exported.typed.path == run.path(folded(Precision.INT8))


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("onnx.fp16", ["onnx", "folded", "converted", "trained"]),
        ("engine.int8+fp16", ["onnx.int8+fp16", "onnx", "folded", "converted", "trained"]),
        ("engine", ["onnx", "folded", "converted", "trained"]),
        ("trained", []),
        ("model.onnx", []),
    ],
)
def test_each_form_is_made_from_the_nearest_one(name: str, before: list[str]) -> None:
    assert list(ancestors(name)) == before


def test_test_images_are_not_calibrated_on() -> None:
    whole = dataset()
    swapped = replace(whole, train=Split(whole.test.images, whole.test.labels))
    assert digest(calibration_images(swapped, 50)) != digest(calibration_images(whole, 50))
