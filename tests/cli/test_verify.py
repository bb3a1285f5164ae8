"""`bn-deploy verify` from outside: stored numbers judged again, two files compared, layers looked into."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bn_deploy.cli import main


def _err(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a.onnx"], "give two models to compare"),
        (["a.onnx", "b.onnx", "c.onnx"], "give two models to compare"),
        (["a.onnx", "b.onnx", "--localise"], "--localise looks into the models of a run folder"),
        (["--inputs", "x.npz"], "--inputs goes with two models"),
        (["--from", "parity.json", "--localise"], "--from judges stored numbers again"),
        (["--from", "parity.json", "a.onnx", "b.onnx"], "--from judges stored numbers again"),
        (["--from", "absent.json"], "cannot read absent.json"),
        (["--max-abs", "-1"], "range"),
        (["--min-agreement", "2"], "range"),
        (["--bound", "loose"], "is not one of"),
        (["a.onnx", "b.onnx"], "there is no ONNX file a.onnx"),
    ],
)
def test_bad_usage_is_one_line(
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["verify", *arguments]) == 2
    assert reason in _err(capsys)


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ([], 0),
        (["--max-abs", "1"], 0),
        (["--max-abs", "1e-12"], 1),
        (["--min-agreement", "1"], 0),
    ],
)
def test_stored_numbers_are_judged_again_without_running(
    run_dir: Path,
    limits: list[str],
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bn_deploy.verify.compare.compare", lambda *_, **__: pytest.fail("it ran"))
    assert main(["verify", "--from", str(run_dir / "parity.json"), *limits]) == code
    out = capsys.readouterr().out
    assert ("PARITY FAILS" in out) == (code == 1)
    assert main(["verify", "--from", str(run_dir / "parity.json"), "--json", *limits]) == code
    assert json.loads(capsys.readouterr().out)["format"] == "bn-deploy-parity/2"


def test_a_stored_verdict_is_not_believed(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value: dict[str, Any] = json.loads((run_dir / "parity.json").read_text())
    value["stages"][-1]["rms"] = 1.0
    value["steps"][-1]["rms"] = 1.0
    (tmp_path / "parity.json").write_text(json.dumps(value))
    assert main(["verify", "--from", str(tmp_path / "parity.json")]) == 1
    step = value["steps"][-1]
    assert f"PARITY FAILS at {step['before']}/{step['after']}" in capsys.readouterr().out


def test_a_report_that_holds_is_short_and_says_where_its_bound_is_from(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--from", str(run_dir / "parity.json")]) == 0
    out = capsys.readouterr().out
    assert "parity holds over 200 images: rms to float64 at most" in out
    assert "= 2 x" in out
    assert "labels cannot flip in fp32" in out
    assert len(out.splitlines()) < 25


def test_parity_json_holds_the_proofs_and_what_they_are_of(run_dir: Path) -> None:
    value = json.loads((run_dir / "parity.json").read_text())
    assert [row["stage"] for row in value["stages"]][:5] == [
        "trained",
        "converted",
        "native",
        "folded",
        "onnx",
    ]
    assert {"checkpoint", "onnx.native", "onnx.folded"} <= set(value["digests"])
    assert value["environment"]["versions"]["torch"]
    for row in value["stages"][:5]:
        proof = row["certificate"]
        assert proof["images"] == 200
        assert proof["proven"] + len(proof["at_risk"]) == 200
        assert proof["excess"] < 1
        assert row["budget"]["observed"] == 0
    assert value["trips"] == []
    assert value["scales"][0]["draws"] == 8


def test_two_files_of_a_run_are_compared_and_nothing_is_written(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    native, folded = (str(run_dir / name) for name in ("model.onnx", "model.folded.onnx"))
    np.savez(tmp_path / "inputs.npz", image=np.random.default_rng(0).random((20, 1, 28, 28), np.float32))
    assert main(["verify", native, folded, "--inputs", "inputs.npz"]) == 0
    assert "parity holds over 20" in capsys.readouterr().out
    model = onnx.load(folded)
    (weight,) = (t for t in model.graph.initializer if t.name == "4.bias")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), "4.bias"))
    onnx.save(model, tmp_path / "off.onnx")
    assert main(["verify", native, "off.onnx", "--inputs", "inputs.npz"]) == 1
    assert "PARITY FAILS at before/after" in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"inputs.npz", "off.onnx"}


def test_a_stale_file_is_named_with_its_layer(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from bn_deploy.artifact import sha256_file

    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    model = onnx.load(copy / "model.folded.onnx")
    (weight,) = (t for t in model.graph.initializer if t.name == "9.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), "9.weight"))
    onnx.save(model, copy / "model.folded.onnx")
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["artifacts"]["onnx.folded"]["sha256"] = sha256_file(copy / "model.folded.onnx")
    for kind in ("plan", "plan.sidecar", "parity", "latency", "report"):
        manifest["artifacts"].pop(kind, None)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", "--run", str(copy), "--bound", "strict", "--localise"]) == 1
    out = capsys.readouterr().out
    assert "PARITY FAILS at folded/onnx" in out
    assert "onnx: the first layer that is off is 9" in out
    assert (copy / "parity.png").is_file()
