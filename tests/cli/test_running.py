"""--cuda-graph, --trust and --lean-runtime, from the command line to the runner and into the records.

TensorRT and the GPU are fakes, here and in the processes that time: the engine gives logits of its own, so
nothing vouches for it, and `verify` finds it wrong.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bn_deploy import run_folder as kinds
from bn_deploy.bench.processes import worker_command
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.cli import main
from bn_deploy.engine import sidecar
from bn_deploy.pipeline.timing import time_all
from bn_deploy.run_folder import RunFolder
from tests.backends.fake_engine import VERSION
from tests.backends.trt_place import KNOWN, PLAN
from tests.backends.trt_worker import TOLD, as_told

LENET = {"row": [1, 28, 28], "output_size": 10, "profiles": [[1, 8, 256]]}
NEW = "11.4.0.106"
BRIEFLY = ["--unverified", "--quick", "--processes", "1", "--budget", "0.05", "--batch", "2,3"]

Given = Callable[..., list[str]]


@pytest.fixture
def given(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """Makes a run folder with an engine, and the machine for it; returns the option that names the folder."""

    def make(*flags: str, version: str = VERSION, refuses_graphs: str = "") -> list[str]:
        shutil.copytree(run_dir, tmp_path / "run")
        run = RunFolder(tmp_path / "run")
        run.path(kinds.PLAN).write_bytes(PLAN)
        settings = {"typing": "strong", "flags": list(flags)}
        sidecar.write(run.path(kinds.PLAN), replace(KNOWN, tensorrt_version=version, settings=settings))
        plan = run.record(kinds.PLAN, made_from={kinds.FOLDED: run.require(kinds.FOLDED).sha256})
        run.record(kinds.SIDECAR, made_from={kinds.PLAN: plan.sha256})
        told = {"version": NEW if flags else version, "refuses_graphs": refuses_graphs, "engine": LENET}
        as_told(monkeypatch.setattr, told)
        monkeypatch.setenv(TOLD, json.dumps(told))
        defaults: dict[str, Any] = getattr(time_all, "__kwdefaults__", {})
        monkeypatch.setitem(defaults, "command", worker_command("tests.backends.trt_worker"))
        return ["--run", str(run.root)]

    return make


def recorded(where: list[str]) -> LatencyRecord:
    return LatencyRecord.read(Path(where[1]) / "latency.json")


def test_a_cuda_graph_is_asked_for_recorded_and_told(
    given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    where = given()
    assert main(["bench", "--backend", "trt", "--cuda-graph", *BRIEFLY, *where]) == 0
    rows = recorded(where).results
    assert {row.batch for row in rows} == {2, 3}
    for row in rows:
        assert row.requested["cuda_graph"] is True
        assert (row.cuda_graph, row.no_cuda_graph) == (True, None)
    assert "CUDA graph" in capsys.readouterr().out
    again = ["bench", "--against", str(Path(where[1]) / "latency.json"), "--backend", "trt", *where]
    assert main([*again, "--cuda-graph"]) == 2
    assert "--against measures as that file was measured; --cuda-graph is not free" in capsys.readouterr().err
    assert main([*again, "--unverified", "--processes", "1", "--budget", "0.05", "--json"]) == 4
    value = json.loads(capsys.readouterr().out)
    assert {row["cuda_graph"] for row in value["results"]} == {True}, "as it was measured then"


def test_a_graph_that_cannot_be_had_is_told_with_the_reason(
    given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    where = given(refuses_graphs="no such luck")
    assert main(["bench", "--backend", "trt", "--cuda-graph", *BRIEFLY, *where]) == 0
    for row in recorded(where).results:
        assert row.requested["cuda_graph"] is True
        assert (row.cuda_graph, row.no_cuda_graph) == (False, "no such luck")
    said = " ".join(capsys.readouterr().out.split())
    assert "!! trt folded: without the CUDA graph that was asked for: no such luck" in said


def test_without_being_asked_for_there_is_no_graph(given: Given) -> None:
    where = given()
    assert main(["bench", "--backend", "ort", "--backend", "trt", *BRIEFLY, *where]) == 0
    rows = {row.backend: row for row in recorded(where).results}
    assert (rows["trt"].cuda_graph, rows["ort"].cuda_graph) == (False, None)
    assert not any(rows[name].requested["cuda_graph"] for name in ("ort", "trt"))


def test_it_is_asked_only_of_who_takes_it(given: Given) -> None:
    where = given()
    assert main(["bench", "--backend", "ort", "--backend", "trt", "--cuda-graph", *BRIEFLY, *where]) == 0
    rows = {row.backend: row for row in recorded(where).results}
    assert rows["trt"].requested["cuda_graph"] is True
    assert rows["ort"].requested["cuda_graph"] is False


@pytest.mark.parametrize("command", [["bench", "--backend", "trt", *BRIEFLY], ["verify", "--require-engine"]])
def test_code_in_a_plan_runs_only_if_it_is_trusted(
    command: list[str], given: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    where = given("VERSION_COMPATIBLE", version=NEW)
    assert main([*command, *where]) == 2
    assert "if you trust where it comes from, say --trust" in capsys.readouterr().err
    assert main([*command, "--trust", *where]) == (command[0] == "verify"), "its logits are not the network's"
    if command[0] == "bench":
        assert {row.requested["trust"] for row in recorded(where).results} == {True}


@pytest.mark.parametrize("command", [["bench", "--backend", "trt", *BRIEFLY], ["verify", "--require-engine"]])
def test_a_plan_without_its_runtime_gets_the_one_that_is_named(
    command: list[str],
    given: Given,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = given("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME", version="11.3.0.1")
    assert main([*command, *where]) == 2
    assert "give the library of tensorrt 11.3.0.1 with --lean-runtime" in capsys.readouterr().err
    (tmp_path / "lean.so").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert main([*command, "--lean-runtime", "lean.so", *where]) == (command[0] == "verify")
    if command[0] == "bench":
        wanted = {str(tmp_path / "lean.so")}
        assert {row.requested["lean_runtime"] for row in recorded(where).results} == wanted


def test_verify_tells_how_the_engine_was_launched(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    where = given()
    for options, told in (([], ""), (["--cuda-graph"], ", CUDA graph")):
        assert main(["verify", "--json", *options, *where]) == 1
        engine = json.loads(capsys.readouterr().out)["stages"][-1]
        assert engine["provider"] == f"TensorRT {VERSION}{told}"


def test_verify_tells_why_there_was_no_graph(given: Given, capsys: pytest.CaptureFixture[str]) -> None:
    where = given(refuses_graphs="no such luck")
    assert main(["verify", "--json", "--cuda-graph", *where]) == 1
    engine = json.loads(capsys.readouterr().out)["stages"][-1]
    assert engine["provider"] == f"TensorRT {VERSION}, no CUDA graph: no such luck"


OPTIONS: tuple[list[str], ...] = (["--cuda-graph"], ["--trust"], ["--lean-runtime", "lean.so"])


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
def test_where_no_backend_takes_it_that_is_bad_usage(
    option: list[str], run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(run_dir / "model.folded.onnx")
    cases: dict[str, Any] = {
        f"{option[0]} means nothing to ort; trt takes it": (
            ["bench", "--backend", "ort", "--run", str(run_dir)],
            ["bench", model],
            ["verify", model, model],
        ),
        "--from judges stored numbers again and runs nothing": (
            ["verify", "--from", str(run_dir / "parity.json")],
        ),
    }
    for reason, commands in cases.items():
        for command in commands:
            assert main([*command, *option]) == 2
            captured = capsys.readouterr()
            assert reason in captured.err
            assert captured.err.count("\n") == 1


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
def test_where_who_takes_it_cannot_run_it_is_not_available(
    option: list[str],
    run_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("bn_deploy.engine.driver.find_gpu", lambda: "no driver")
    assert main(["bench", "--run", str(run_dir), *option]) == 3
    assert f"{option[0]} is for trt, which cannot be timed here: " in capsys.readouterr().err
