"""Benchmarks of small ONNX files with real processes: who is timed, who vouches, what is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy import run_folder as kinds
from bn_deploy.backends import BACKENDS
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.environment import environment
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.threads import Choice
from bn_deploy.cli import main
from bn_deploy.data import synthetic
from bn_deploy.errors import CheckFailed, InputError, NotAvailable
from bn_deploy.pipeline.benching import bench, bench_files
from bn_deploy.pipeline.make import export, train
from bn_deploy.pipeline.subjects import usable
from bn_deploy.pipeline.verification import verify
from bn_deploy.pipeline.worker import open_candidate
from bn_deploy.report.latency import latency_text
from bn_deploy.report.latency_json import latency_json
from bn_deploy.run_folder import RunFolder
from bn_deploy.train.recipe import Recipe
from tests.bench.make import of_processes, record

BRIEF = MeasureOptions(batch_sizes=(1, 4), processes=1, budget_s=0.01, rounds=1, warmup_s=0.0, quick=True)
WHERE = ["--processes", "1", "--budget", "0.01", "--threads", "1", "--batch", "1"]


def network(path: Path, scale: float = 1.0, *, products: int = 1) -> Path:
    """An ONNX file: (N, 8) times a matrix, `products` times."""
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    nodes, before = [], "image"
    for number in range(products):
        after = "logits" if number == products - 1 else f"hidden{number}"
        nodes.append(helper.make_node("MatMul", [before, "weight"], [after]))
        before = after
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8]) for n in ("image", "logits")]
    graph = helper.make_graph(
        nodes, "g", value[:1], value[1:], [numpy_helper.from_array(weight * scale, "weight")]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a trained, exported and folded network, not verified."""
    root = tmp_path_factory.mktemp("runs") / "small"
    run = RunFolder(root)
    train(run, synthetic.make(300, 100), Recipe(epochs=1, batch=64, statistics_images=100))
    export(run, checkpoint=None, fold_bn=True)
    return root


def test_files_are_timed_against_each_other_and_the_first_against_itself(tmp_path: Path) -> None:
    files = [network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx")]
    benched = bench_files(files, BRIEF, threads=1)
    assert [(row.model, row.batch, row.again) for row in benched.record.results] == [
        (model, batch, again)
        for batch in (1, 4)
        for model, again in (("a", False), ("b", False), ("b", True))
    ]
    assert benched.exit_code == 0
    assert benched.record.parity == {"ort a": "64 rows", "ort b": "64 rows"}
    assert set(benched.record.artifacts) == {str(path) for path in files}
    row = benched.record.results[0]
    assert row.requested == {
        "threads": 1,
        "spinning": None,
        "precision": None,
        "provider": "CPUExecutionProvider",
        "cuda_graph": False,
        "trust": False,
        "lean_runtime": None,
    }
    assert (row.provider, row.precision.value, row.threads) == ("CPUExecutionProvider", "fp32", 1)
    assert row.census == {"MatMul": 1}
    text = latency_text(benched.record, {})
    assert "quick: 1 process" in text
    assert "no verdicts: a 95 % interval needs 6 processes, and there are 1" in text
    assert "timing itself adds" in text
    assert not list(tmp_path.glob("latency*"))


def test_what_does_not_compute_the_same_is_not_timed_unless_asked(tmp_path: Path) -> None:
    files = [network(tmp_path / "a.onnx"), network(tmp_path / "b.onnx", scale=1.001)]
    benched = bench_files(files, replace(BRIEF, batch_sizes=(1,)), threads=1)
    assert {row.model for row in benched.record.results} == {"a"}
    assert benched.exit_code == 1
    assert "rms to float64" in benched.refused["ort b"]
    assert "!! not timed, because it does not compute the same: ort b" in latency_text(
        benched.record, {}, benched.refused
    )
    anyway = bench_files(files, replace(BRIEF, batch_sizes=(1,)), threads=1, unverified=True)
    assert {row.model for row in anyway.record.results} == {"a", "b"}
    assert set(anyway.record.parity.values()) == {"unverified"}
    assert "nobody checked that these compute the same: ort a, ort b" in latency_text(anyway.record, {})


def test_a_batch_size_that_a_file_does_not_take_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = network(tmp_path / "a.onnx")
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, path)
    assert main(["bench", str(path), *WHERE]) == 2
    assert "ort a does not take batch size 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.onnx", "a.onnx"], "the same file twice"),
        (["none.onnx"], "none.onnx"),
        (["a.onnx", "--backend", "torch"], "torch takes no ONNX file"),
        (["a.onnx", "--compare", "native"], "forms of the run folder's network"),
        (["a.onnx", "--against", "none.json"], "none.json"),
        (["--inputs", "a.onnx"], "--inputs goes with models"),
        (["--compare", "native,melted"], "export --fold-bn"),
        (["--scenario", "server"], "needs a rate"),
        (["--rate", "5"], "and no other"),
        (["--max-slowdown", "lots"], "expected a share such as 3%"),
        (["--max-slowdown", "100%"], "less than 100%"),
    ],
)
def test_bad_usage_is_one_line(
    names: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    network(tmp_path / "a.onnx")
    assert main(["bench", *names]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_run_folder_is_timed_and_the_files_are_recorded(run_dir: Path) -> None:
    run, dataset = RunFolder(run_dir), synthetic.make(300, 100)
    benched = bench(run, BRIEF, backends=["ort"], threads=1, dataset=dataset)
    assert set(benched.record.parity.values()) == {"64 rows"}, "nothing was verified yet"
    assert LatencyRecord.read(run.path(kinds.LATENCY)) == benched.record
    for kind in (kinds.LATENCY, kinds.LATENCY_PLOT, kinds.CUSTOM):
        run.require(kind)
    assert run.path(kinds.LATENCY_PLOT).read_bytes().startswith(b"\x89PNG")
    rows = {row.model: row for row in benched.record.results if not row.again}
    assert list(rows) == ["custom", "native", "folded"]
    assert rows["native"].census is not None
    assert rows["native"].census["BatchNormalization"] == 2, "ONNX Runtime merges those after convolutions"
    before = run.path(kinds.LATENCY).read_bytes()
    verify(run, dataset=dataset)
    custom = run.path(kinds.CUSTOM).stat().st_mtime_ns
    again = bench(
        run, BRIEF, backends=["ort"], forms=["folded", "custom"], threads=1, dataset=dataset, keep=False
    )
    assert again.record.parity == {"ort custom": "64 rows", "ort folded": "parity.json"}
    assert run.path(kinds.LATENCY).read_bytes() == before
    assert run.path(kinds.CUSTOM).stat().st_mtime_ns == custom, "it is still of this checkpoint"
    with pytest.raises(InputError, match="no form 'melted'; it has custom, native, folded"):
        bench(run, BRIEF, forms=["melted"], dataset=dataset)


def test_a_form_that_failed_its_parity_is_not_timed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bn_deploy.verify.parity import Parity

    run, dataset = RunFolder(run_dir), synthetic.make(300, 100)
    verify(run, dataset=dataset)
    monkeypatch.setattr(Parity, "faults", lambda _, stage: iter(["off"] if stage.stage == "onnx" else []))
    benched = bench(run, replace(BRIEF, batch_sizes=(1,)), backends=["ort"], threads=1, dataset=dataset)
    assert benched.refused == {"ort folded": "off"}
    assert benched.exit_code == 1
    monkeypatch.setattr(Parity, "faults", lambda *_: iter(["off"]))
    with pytest.raises(CheckFailed, match="no candidate computes the same; ort custom: off"):
        bench(run, BRIEF, backends=["ort"], threads=1, dataset=dataset)


def test_backends_that_compile_wait_until_they_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(BACKENDS[0]), "why_not", lambda row: "broken" if row.name == "trt" else None)
    rows, reasons = usable(())
    assert [row.name for row in rows][:2] == ["ort", "torch"]
    assert reasons["trt"] == "broken"
    compiling = {row.name for row in BACKENDS if row.compiles}
    assert compiling
    assert all("--backend" in reasons[name] for name in compiling)
    named, _ = usable(sorted(compiling))
    assert {row.name for row in named} == compiling
    with pytest.raises(NotAvailable, match="trt: broken"):
        usable(["trt"])


def test_a_runner_that_is_not_what_was_asked_for_is_refused(tmp_path: Path) -> None:
    path = network(tmp_path / "a.onnx")
    asked = Candidate("a", "ort", Source("onnx", str(path)), 1, precision="fp16")
    with pytest.raises(NotAvailable, match="ort a was to compute in fp16, and does in fp32"):
        open_candidate(asked)
    with pytest.raises(NotAvailable, match="was to compute on CUDA, and does on CPUExecutionProvider"):
        open_candidate(replace(asked, precision=None, provider="CUDA"))
    with pytest.raises(InputError, match="nothing here opens"):
        open_candidate(replace(asked, source=Source("checkpoint", str(path), "melted")))


def test_threads_are_tried_out_and_the_choice_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def choose(open_with: Any, feeds: Any, **rest: Any) -> Choice:
        asked.append(feeds["image"].shape)
        with open_with(1, False) as runner:
            assert runner.backend == "ort"
        return Choice(1, False, {})

    monkeypatch.setattr("bn_deploy.pipeline.timing.calibrate", choose)
    options = replace(BRIEF, batch_sizes=(2, 4), quick=False)
    benched = bench_files([network(tmp_path / "a.onnx")], options)
    assert asked == [(2, 8)], "at the smallest batch size"
    assert benched.record.choices == {"ort": {"threads": 1, "spinning": False, "tried": []}}
    assert [row.name for row in benched.record.memory] == ["ort a"]
    assert {row.requested["spinning"] for row in benched.record.results} == {False}
    assert "memory of ort a in a process of its own" in latency_text(benched.record, {})
    json.dumps(latency_json(benched.record), allow_nan=False)


def gated(tmp_path: Path, factor: float, arguments: Sequence[str] = ()) -> int:
    """The exit status of the gate; the measurement now takes `factor` times as long as the one then."""
    path = network(tmp_path / "a.onnx")
    options = MeasureOptions(batch_sizes=(1,), processes=1, budget_s=0.01, rounds=1)
    now = [of_processes([100.0 * factor + n * 0.1 for n in range(7)], model="a", batch=1)]
    then = record(
        results=(of_processes([100.0 + n * 0.1 for n in range(7)], model="a", batch=1),),
        options=options,
        environment=environment(),
    )
    then.write(tmp_path / "then.json")

    def replicated(*_: Any, **__: Any) -> Any:
        from bn_deploy.bench.replicate import Replicated

        return Replicated(tuple(now), 1e-7, {}, interrupted=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bn_deploy.pipeline.timing.replicate", replicated)
        patch.setattr("bn_deploy.pipeline.timing.memory", lambda last, *_, **__: _no_memory(last.name))
        return main(["bench", str(path), "--against", str(tmp_path / "then.json"), *arguments])


def _no_memory(name: str) -> Any:
    from bn_deploy.bench.replicate import Memory

    return Memory(name, None, None, None)


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (0.5, 0), (1.2, 1), (1.03, 4)])
def test_the_gate_fails_only_what_is_surely_slower(
    factor: float, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gated(tmp_path, factor) == code
    assert "is now" in capsys.readouterr().out


def test_the_gate_takes_what_is_allowed_and_says_it_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gated(tmp_path, 1.2, ["--max-slowdown", "30%", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["gate"]["rows"]
    assert row["allowed"] == pytest.approx(0.3)
    assert row["time_ratio"] == pytest.approx(1.2, rel=0.01)


@pytest.mark.parametrize("option", [["--batch", "8"], ["--scope", "compute"], ["--quick"]])
def test_the_gate_measures_as_the_earlier_one_did(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gated(tmp_path, 1.0, option) == 2
    assert "--against" in capsys.readouterr().err


def test_an_interrupted_measurement_is_shown_and_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bn_deploy.bench.replicate import replicate

    def stopped(*arguments: Any, **given: Any) -> Any:
        return replace(replicate(*arguments, **given), interrupted=True)

    monkeypatch.setattr("bn_deploy.pipeline.timing.replicate", stopped)
    assert main(["bench", str(network(tmp_path / "a.onnx")), *WHERE, "--quick"]) == 130
    assert "!! interrupted" in capsys.readouterr().out
