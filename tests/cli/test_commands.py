"""The command line from outside: help, one clear line, the right exit code, nothing lost."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.artifact import sha256_file
from bn_deploy.backends import BACKENDS
from bn_deploy.cli import COMMANDS, main
from bn_deploy.errors import ModelError

Fault = Callable[[Path], list[str]]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: bn-deploy {name}")
    assert "--json" in out
    assert "--verbose" in out


def _one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.startswith("bn-deploy: ")
    assert captured.err.count("\n") == 1, captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["fly"], "No such command"),
        (["train", "--epochs", "0"], "epochs must be at least 1"),
        (["train", "--epochs", "many"], "not a valid integer"),
        (["train", "--batch", "0"], "batch must be at least 2"),
        (["train", "--lr", "0"], "lr must be positive"),
        (["train", "--lr", "nan"], "lr must be positive"),
        (["train", "--seed", "-1"], "seed"),
        (["train", "--statistics-images", "0"], "statistics_images must be at least 2"),
        (["train", "--dataset", "mnist"], "is not one of"),
        (["train", "--dataset", "synthetic", "--norm", "layer"], "unknown norm 'layer'"),
        (["train", "--dataset", "synthetic", "--model", "resnet"], "unknown model 'resnet'"),
        (["export", "--strict"], "give --fold-bn too"),
        (["build", "--batch", "0"], "1 <= min <= opt <= max"),
        (["build", "--batch", "8:4:2"], "1 <= min <= opt <= max"),
        (["build", "--batch", "1:2"], "MIN:OPT:MAX"),
        (["build", "--batch", "a:b:c"], "MIN:OPT:MAX"),
        (["build", "--workspace-mib", "0"], "workspace"),
        (["build", "--optimization-level", "9"], "range"),
        (["bench", "--batch", "0"], "at least 1"),
        (["bench", "--batch", "1,x"], "expected sizes"),
        (["bench", "--batch", "8,8"], "each once"),
        (["bench", "--budget", "0"], "budget must be more than 0"),
        (["bench", "--backend", "tflite"], "is not one of"),
        (["bench", "--threads", "0"], "range"),
        (["train", "--frobnicate"], "No such option"),
        (["train", "--lr", "1e308"], "finite in float32"),
        (["train", "--run", ""], "the name is empty"),
        (["bench", "--threads", "100000"], "range"),
        (["bench", "--batch", "10000000"], "65,536 at most"),
        (["build", "--batch", "1:1:99999999999999999999"], "65,536 at most"),
        (["build", "--workspace-mib", "99999999999999999999"], "range"),
        (["report", "--run", "a" * 300], "name too long"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_and_exit_2(
    arguments: list[str],
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    line = _one_line(capsys)
    assert any(part in line for part in reason.split("|")), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "made_by"),
    [
        (["export", "--fold-bn"], "bn-deploy train"),
        (["build"], "bn-deploy export --fold-bn"),
        (["verify"], "bn-deploy export --fold-bn"),
        (["bench"], "bn-deploy export --fold-bn"),
        (["report"], "bn-deploy export --fold-bn"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_folder_without_the_file_says_which_command_makes_it(
    arguments: list[str], made_by: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--run", str(tmp_path / "empty")]) == 2
    assert f"`{made_by}`" in _one_line(capsys)


def test_no_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Usage: bn-deploy")
    assert "\n  train " in err


def test_a_folder_that_cannot_be_written_is_found_before_the_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bn_deploy.data.load", lambda *_, **__: pytest.fail("the work began"))
    (tmp_path / "file").write_text("")
    for command in ("train", "run"):
        assert main([command, "--dataset", "synthetic", "--run", str(tmp_path / "file" / "run")]) == 2
        assert "cannot write" in _one_line(capsys)


def test_a_run_folder_that_is_a_file_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert main(["report", "--run", str(tmp_path / "file")]) == 2
    _one_line(capsys)


def test_an_internal_error_is_one_line_and_verbose_shows_the_trace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("bn_deploy.doctor.examine", broken)
    assert main(["doctor"]) == 1
    assert "internal error, ZeroDivisionError: a fault of ours" in _one_line(capsys)
    assert main(["doctor", "--verbose"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bn_deploy.doctor.examine", interrupted)
    assert main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_ctrl_c_that_foreign_code_makes_another_error_of_is_told_as_what_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ModelError("the network cannot be exported") from None

    monkeypatch.setattr("bn_deploy.doctor.examine", interrupted)
    assert main(["doctor"]) == 130
    assert _one_line(capsys) == "bn-deploy: interrupted\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stays_with_a_caller_who_has_taken_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    monkeypatch.setattr("bn_deploy.doctor.examine", lambda: signal.raise_signal(signal.SIGINT))
    try:
        main(["doctor"])
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_doctor_tells_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in ("python", "torch", "onnxruntime", "providers", "TensorRT", "GPU", "backend trt"):
        assert word in out
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["backends"]) == {row.name for row in BACKENDS}
    assert found["backends"]["torch"] is None


# ---- on a run that went through: each command works alone, and damage to a file is noticed ----


def test_the_commands_work_one_after_the_other(
    run_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    where = ["--run", str(copy)]
    assert main(["export", "--fold-bn", "--strict", *where]) == 0
    assert "batch norms 4 -> 0" in capsys.readouterr().out
    assert main(["verify", *where]) == 0
    assert "parity holds" in capsys.readouterr().out
    briefly = ["--budget", "0.01", "--processes", "1", "--threads", "1"]
    assert main(["bench", "--backend", "ort", "--batch", "1,3", *briefly, "--json", *where]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["results"] if not row["again"]]
    assert [(r["model"], r["batch"]) for r in rows] == [
        (model, batch) for batch in (1, 3) for model in ("custom", "native", "folded")
    ]
    assert main(["report", "--json", *where]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["census"]["folded"].get("BatchNormalization") is None
    assert report["latency"]


def test_a_stranger_engine_is_not_available_here(
    run_dir: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from bn_deploy.engine import driver

    if (reason := driver.why_no_gpu()) is None:
        pytest.skip("there is a GPU, so the engine is available")
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    for arguments in (["bench", "--backend", "trt"], ["verify", "--require-engine"]):
        assert main([*arguments, "--run", str(copy)]) == 3
        line = _one_line(capsys)
        assert reason in line or "pip install" in line or "bn-deploy build" in line


def _damage(name: str, content: bytes | None) -> Fault:
    def fault(run: Path) -> list[str]:
        if content is None:
            (run / name).unlink()
        else:
            (run / name).write_bytes(content)
        return []

    return fault


@pytest.mark.parametrize(
    ("command", "name", "content"),
    [
        (["export", "--fold-bn"], "checkpoint.safetensors", b"not safetensors"),
        (["export", "--fold-bn"], "checkpoint.safetensors", None),
        (["build"], "model.folded.onnx", b"not ONNX"),
        (["build"], "model.folded.onnx", None),
        (["verify"], "model.folded.onnx", b"not ONNX"),
        (["bench"], "model.onnx", b"not ONNX"),
        (["report"], "parity.json", b"{}"),
        (["report"], "manifest.json", b"{"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_file_is_refused_and_nothing_is_overwritten(
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    name: str,
    content: bytes | None,
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    _damage(name, content)(copy)
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    assert main([*command, "--run", str(copy)]) == 2
    assert name in _one_line(capsys)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before


def test_a_checkpoint_from_elsewhere_is_followed_by_later_commands(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "elsewhere.safetensors"
    shutil.copy(run_dir / "checkpoint.safetensors", outside)
    where = ["--run", str(tmp_path / "run")]
    assert main(["export", "--fold-bn", "--checkpoint", str(outside), *where]) == 0
    assert main(["verify", *where]) == 0
    outside.write_bytes(b"replaced")
    capsys.readouterr()
    assert main(["verify", *where]) == 2
    assert "elsewhere.safetensors" in _one_line(capsys)


def test_files_of_two_networks_are_never_mixed(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    train = ["train", "--dataset", "synthetic", "--epochs", "1", "--seed", "5", "--run", str(other)]
    assert main(train) == 0
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    # model.onnx is now of another network than model.folded.onnx and model.plan.
    assert main(["export", "--checkpoint", str(other / "checkpoint.safetensors"), "--run", str(copy)]) == 0
    capsys.readouterr()
    for command in ("bench", "verify", "build", "report"):
        assert main([command, "--run", str(copy)]) == 2
        assert "`bn-deploy export --fold-bn`" in _one_line(capsys)


def test_the_report_fits_a_screen_of_100_columns(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--run", str(run_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [
        word for line in lines for word in line.split() if len(word) > 80
    ]  # folder names are what they are
    assert [line for line in lines if len(line) > 100 and not any(name in line for name in names)] == []


def _tamper(run: Path, kind: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file of a run and the digest that vouches for it."""
    manifest = json.loads((run / "manifest.json").read_text())
    if kind == "manifest":
        change(manifest["artifacts"])
    else:
        path = run / manifest["artifacts"][kind]["path"]
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        manifest["artifacts"][kind]["sha256"] = sha256_file(path)
    (run / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("manifest", lambda rows: rows["onnx.folded"]["facts"].clear()),
        ("manifest", lambda rows: rows["latency"]["facts"].clear()),
        ("manifest", lambda rows: rows["plan"]["made_from"].update(plan=rows["plan"]["sha256"])),
        ("training", lambda value: value.update(test_accuracy="x")),
        ("training", lambda value: value.update(test_accuracy=float("nan"))),
        ("training", lambda value: value.pop("threads")),
        ("parity", lambda value: value.update(stages=[], steps=[])),
        ("parity", lambda value: value["stages"].pop()),
        ("parity", lambda value: value["stages"][0].update(rms=None)),
        ("parity", lambda value: value["stages"][0].update(rms=float("nan"))),
        ("latency", lambda value: value.pop("results")),
    ],
)
def test_what_was_tampered_with_is_called_damaged(
    kind: str,
    change: Callable[[dict[str, Any]], object],
    run_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    if kind == "manifest" and "plan" not in json.loads((copy / "manifest.json").read_text())["artifacts"]:
        pytest.skip("no TensorRT built a plan here")
    _tamper(copy, kind, change)
    for form in ([], ["--json"]):
        assert main(["report", "--run", str(copy), *form]) == 2
        _one_line(capsys)


def test_the_report_counts_operators_in_the_file_itself(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    shutil.copy(copy / "model.onnx", copy / "model.folded.onnx")
    rows = json.loads((copy / "manifest.json").read_text())
    rows["artifacts"]["onnx.folded"]["sha256"] = sha256_file(copy / "model.folded.onnx")
    for kind in ("plan", "plan.sidecar", "parity", "latency", "report"):
        rows["artifacts"].pop(kind, None)
    (copy / "manifest.json").write_text(json.dumps(rows))
    assert main(["report", "--run", str(copy)]) == 0
    assert "batch norms 4 -> 4" in capsys.readouterr().out


def test_a_failed_export_leaves_the_manifest_as_it_was(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run_dir, copy)
    (copy / "model.onnx").unlink()
    (copy / "model.onnx").mkdir()
    before = (copy / "manifest.json").read_bytes()
    outside = shutil.copy(copy / "checkpoint.safetensors", tmp_path / "c.safetensors")
    assert main(["export", "--fold-bn", "--checkpoint", str(outside), "--run", str(copy)]) == 2
    assert (copy / "manifest.json").read_bytes() == before
    _one_line(capsys)


def test_a_foreign_checkpoint_is_found_through_a_link(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    outside = shutil.copy(run_dir / "checkpoint.safetensors", tmp_path / "c.safetensors")
    where = ["--run", str(tmp_path / "link")]
    assert main(["export", "--fold-bn", "--checkpoint", str(outside), *where]) == 0
    assert main(["verify", *where]) == 0
    assert "parity holds" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["{} 2>&-", "PYTHONIOENCODING=ascii {}", "LC_ALL=C {}"])
def test_odd_streams_lose_no_result(shell: str, run_dir: Path) -> None:
    command = f"{sys.executable} -m bn_deploy report --run {run_dir}"
    done = subprocess.run(shell.format(command), shell=True, capture_output=True, check=False)  # noqa: S602
    assert done.returncode == 0, done.stderr
    assert b"batch norms 4 -> 0" in done.stdout


def test_a_reader_that_goes_away_is_no_failed_check(run_dir: Path) -> None:
    command = f"set -o pipefail; {sys.executable} -m bn_deploy report --run {run_dir} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)  # noqa: S607
    assert done.returncode in (0, 141)
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"not safetensors", b"", None])
def test_a_foreign_checkpoint_that_cannot_be_read_changes_nothing(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "c.safetensors"
    if content is not None:
        outside.write_bytes(content)
    run = tmp_path / "run"
    assert main(["export", "--fold-bn", "--checkpoint", str(outside), "--run", str(run)]) == 2
    assert "c.safetensors" in _one_line(capsys)
    assert not run.exists()
