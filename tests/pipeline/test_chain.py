"""The chain as a library: what this machine lacks is told; what an earlier run left is not believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.data import synthetic
from bn_deploy.data.dataset import Dataset
from bn_deploy.engine.build import BuildOptions
from bn_deploy.errors import DataError, NotAvailable
from bn_deploy.pipeline import chain, make
from bn_deploy.pipeline.verification import verify
from bn_deploy.report.text import report_text
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Precision
from bn_deploy.train.recipe import Recipe

RECIPE = Recipe(epochs=1, batch=64, statistics_images=200)
TIMING = MeasureOptions(batch_sizes=(1, 4), processes=1, budget_s=0.01, rounds=1, quick=True)


@pytest.mark.parametrize("norm", ["custom", "torch"])
def test_without_tensorrt_the_rest_is_done_and_the_report_says_so(
    norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = synthetic.make(400, 100)
    run = RunFolder(tmp_path)
    run.path(kinds.PLAN).write_bytes(b"the plan of an earlier run")
    run.record(kinds.PLAN, made_from={kinds.FOLDED: "0" * 64})

    def no_tensorrt(*_: object, **__: object) -> None:
        raise NotAvailable("no TensorRT is installed; pip install 'bn-deploy[rtx]'")

    monkeypatch.setattr(chain, "build", no_tensorrt)
    report = chain.everything(run, dataset, RECIPE, norm=norm, measure_options=TIMING)
    assert report.exit_code == 0
    assert report.engine is None
    text = report_text(report)
    assert "engine: not built: no TensorRT is installed; pip install 'bn-deploy[rtx]'" in text
    assert "batch norms 4 -> 0" in text
    models = {"native", "folded"} | ({"custom"} if norm == "custom" else set())
    assert report.latency is not None
    assert {r.model for r in report.latency.results if r.backend == "ort"} == models
    assert read_json(run.path(kinds.REPORT))["unavailable"]["build"].startswith("no TensorRT")


def test_each_precision_is_exported_and_built_and_what_an_earlier_run_left_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    run, whole = RunFolder(tmp_path), synthetic.make(400, 100)
    old = kinds.of_precision(kinds.PLAN, Precision.INT8)
    run.path(old).write_bytes(b"the int8 plan of an earlier run")
    run.record(old, made_from={kinds.FOLDED: "0" * 64})

    def exporting_all(*given: Any, **options: Any) -> Any:
        log.append("export fp32")
        return make.export(*given, **options)

    def exporting(_: RunFolder, precision: Precision, *, target: str, dataset: Dataset, **__: Any) -> None:
        assert (target, dataset) == ("8.x", whole)
        log.append(f"export {precision.value}")

    def building(_: RunFolder, options: BuildOptions, **__: Any) -> None:
        assert options.precision is not None
        log.append(f"build {options.precision.value}")
        raise NotAvailable("no TensorRT is installed")

    monkeypatch.setattr(chain, "export", exporting_all)
    monkeypatch.setattr(chain, "give_precision", exporting)
    monkeypatch.setattr(chain, "build", building)
    chain.everything(
        *(run, whole, RECIPE),
        precisions=(Precision.INT8_FP16, Precision.FP16),
        target="8.x",
        measure_options=TIMING,
    )
    done = ["export fp32", "export fp16", "export int8+fp16", "build fp32", "build fp16", "build int8+fp16"]
    assert log == done
    assert run.find(old) is None


def test_a_notice_about_the_data_is_in_everything_that_is_left_behind(tmp_path: Path) -> None:
    from dataclasses import replace

    notice = "NOT Fashion-MNIST but the synthetic set"
    dataset = replace(synthetic.make(400, 100), notice=notice)
    run = RunFolder(tmp_path)
    report = chain.everything(run, dataset, RECIPE, measure_options=TIMING)
    assert report_text(report).splitlines()[0] == f"!! {notice}"
    # These name the data set instead.
    silent = {kinds.PARITY, kinds.LATENCY, kinds.LATENCY_PLOT, kinds.TRAINING_PLOT}
    for kind, (name, _) in kinds.FILES.items():
        if (path := tmp_path / name).exists() and kind not in silent | {kinds.PLAN}:
            assert notice.encode() in path.read_bytes(), name
    for kind in (kinds.PARITY, kinds.LATENCY):
        assert read_json(run.path(kind))["dataset"] == "synthetic"


def test_another_data_set_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    dataset = synthetic.make(400, 100)
    run = RunFolder(tmp_path)
    chain.everything(run, dataset, RECIPE, measure_options=TIMING)
    with pytest.raises(DataError, match="is not the one that the checkpoint was trained on"):
        verify(run, dataset=synthetic.make(400, 100, seed=1))
