"""`bn-deploy build` from outside: what each option does to the engine, and what is refused.

TensorRT-RTX builds here without a GPU; what it lacks is asked of a fake TensorRT.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from bn_deploy import run_folder as kinds
from bn_deploy.cli import main
from bn_deploy.engine import api, driver
from bn_deploy.errors import NotAvailable
from bn_deploy.run_folder import RunFolder
from tests.backends.trt_place import GPU
from tests.engine.fake_trt import VERSIONS, make


@pytest.fixture
def where(run_dir: Path, tmp_path: Path) -> list[str]:
    """The option that names a copy of the run folder, without the engine."""
    shutil.copytree(run_dir, tmp_path / "run")
    for name in ("model.plan", "model.plan.json"):
        (tmp_path / "run" / name).unlink(missing_ok=True)
    return ["--run", str(tmp_path / "run")]


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX, whatever else is here."""
    try:
        found = api.find("tensorrt_rtx")
    except NotAvailable as reason:
        pytest.skip(str(reason))
    monkeypatch.setattr(api, "find", lambda *_: found)


@pytest.fixture
def proper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake TensorRT 11 with a GPU."""
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    monkeypatch.setattr(api, "find", lambda *_: make(VERSIONS[-1]))


def written(where: list[str], name: str = "model.plan.json") -> dict[str, Any]:
    value: dict[str, Any] = json.loads((Path(where[1]) / name).read_text())
    return value


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    assert captured.out == ""
    return captured.err


Look = Callable[[dict[str, Any]], object]


def option_of(value: object) -> str:
    """The name of a row of a table: the options that it gives."""
    return " ".join(map(str, value)) if isinstance(value, list) and value else "none"


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("options", "look", "wanted"),
    [
        ([], lambda known: known["profiles"], [[1, 64, 256]]),
        (["--batch", "1:2:4"], lambda known: known["profiles"], [[1, 2, 4]]),
        (["--batch", "1:2:4", "--batch", "8"], lambda known: known["profiles"], [[1, 2, 4], [8, 8, 8]]),
        (["--target", "8.6, 8.9"], lambda known: known["compute_capabilities"], ["8.6", "8.9"]),
        (["--detailed"], lambda known: known["settings"]["profiling_verbosity"], "DETAILED"),
        (["--no-timing-cache"], lambda known: known["settings"]["timing_cache"], False),
        (["--workspace-mib", "64"], lambda known: known["settings"]["workspace_bytes"], 64 << 20),
        (["--optimization-level", "2"], lambda known: known["settings"]["optimization_level"], 2),
        (["--tf32"], lambda known: "TF32" in known["settings"]["flags"], True),
        (["--precision", "fp32"], lambda known: known["precision"], "fp32"),
    ],
    ids=option_of,
)
def test_an_option_is_in_the_side_car(
    options: list[str], look: Look, wanted: object, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", *options, "--json", *where]) == 0
    known = written(where)
    assert look(known) == wanted
    assert json.loads(capsys.readouterr().out) == known
    assert RunFolder(Path(where[1])).require(kinds.PLAN).facts["profiles"] == known["profiles"]


@pytest.mark.usefixtures("rtx")
def test_an_engine_in_a_precision_has_its_own_name(where: list[str]) -> None:
    assert main(["export", "--fold-bn", "--precision", "fp16", "--calibration-images", "32", *where]) == 0
    assert main(["build", "--precision", "fp16", "--batch", "1:2:4", *where]) == 0
    assert written(where, "model.fp16.plan.json")["precision"] == "fp16"
    assert not (Path(where[1]) / "model.plan").exists()


@pytest.mark.usefixtures("proper")
@pytest.mark.parametrize(
    ("options", "look", "wanted"),
    [
        (["--version-compatible"], lambda known: known["settings"]["flags"], ["VERSION_COMPATIBLE"]),
        (
            ["--version-compatible", "--exclude-lean-runtime"],
            lambda known: known["settings"]["flags"],
            ["EXCLUDE_LEAN_RUNTIME", "VERSION_COMPATIBLE"],
        ),
        (["--hardware-compatible", "ampere+"], lambda known: known["compute_capabilities"], ["8.0+"]),
        (
            ["--hardware-compatible", "same"],
            lambda known: known["settings"]["hardware_compatibility"],
            "SAME_COMPUTE_CAPABILITY",
        ),
        (["--timing-cache"], lambda known: known["settings"]["timing_cache"], True),
        (["--no-timing-cache"], lambda known: known["settings"]["timing_cache"], False),
    ],
    ids=option_of,
)
def test_what_only_tensorrt_proper_has_reaches_it(
    options: list[str],
    look: Look,
    wanted: object,
    where: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda *_, **__: tmp_path / "cache")
    assert main(["build", *options, *where]) == 0
    assert look(written(where)) == wanted


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--batch", "8", "--batch", "8:8:8"], "the same batch range was given twice"),
        (["--batch", "1:2:4", "--batch", "4:2"], "MIN:OPT:MAX"),
        (["--target", "8.6,,8.9"], "expected compute capabilities such as 8.6,8.9"),
        (["--target", "8.6,8.6"], "expected compute capabilities such as 8.6,8.9"),
        (["--target", "3.5"], "cannot build for 3.5; it knows 7.5, 8.0"),
        (["--exclude-lean-runtime"], "--exclude-lean-runtime goes with --version-compatible"),
        (["--version-compatible"], "has no version-compatible plans: its kernels are made where"),
        (["--version-compatible", "--exclude-lean-runtime"], "has no version-compatible plans"),
        (["--hardware-compatible", "all"], "is not one of"),
        (["--hardware-compatible", "ampere+"], "has no hardware compatibility level AMPERE_PLUS"),
        (["--timing-cache"], "has no timing cache: its kernels are made where"),
        (["--precision", "fp64"], "is not one of"),
        (["--precision", "int8"], "`bn-deploy export --fold-bn --precision int8` makes it"),
        (["--dry-run", "--precision", "int8"], "`bn-deploy export --fold-bn --precision int8` makes it"),
        (["--dry-run", "--version-compatible"], "has no version-compatible plans"),
        (["--dry-run", "--exclude-lean-runtime"], "--exclude-lean-runtime goes with --version-compatible"),
        (["--dry-run", "--target", "3.5"], "cannot build for 3.5; it knows 7.5, 8.0"),
    ],
    ids=option_of,
)
def test_what_cannot_be_had_is_one_line_and_writes_nothing(
    options: list[str], reason: str, where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.read_bytes() for path in Path(where[1]).iterdir()}
    assert main(["build", *options, *where]) == 2
    assert reason in said(capsys)
    assert {path.name: path.read_bytes() for path in Path(where[1]).iterdir()} == before


@pytest.mark.usefixtures("proper")
def test_tensorrt_proper_cannot_be_told_a_target(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", "--target", "8.9", *where]) == 2
    assert "has no choice of compute capabilities: it builds for the GPU that is here" in said(capsys)


def test_where_only_plans_can_be_run_building_is_not_available(
    where: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lean = api.TensorRT("tensorrt_lean", make(VERSIONS[-1]).module)
    monkeypatch.setattr(api, "find", lambda *_: lean)
    for options in ([], ["--dry-run"]):
        assert main(["build", *options, *where]) == 3
        assert "only runs plans and cannot build any: pip install 'bn-deploy[gpu]'" in said(capsys)
    assert main(["doctor"]) == 0
    assert f"TensorRT lean runtime {VERSIONS[-1]}, only runs plans" in capsys.readouterr().out


@pytest.mark.usefixtures("rtx")
def test_a_dry_run_builds_nothing(where: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.read_bytes() for path in Path(where[1]).iterdir()}
    assert main(["build", "--dry-run", "--json", *where]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unsupported"] == []
    assert found["nodes"] == len(onnx.load(Path(where[1]) / "model.folded.onnx").graph.node)
    assert {path.name: path.read_bytes() for path in Path(where[1]).iterdir()} == before


@pytest.mark.usefixtures("rtx")
def test_a_dry_run_names_what_cannot_be_imported(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder(Path(where[1]))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, 2])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph(
        [helper.make_node("Det", ["image"], ["logits"], "area")], "g", [image], [logits]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folded = run.require(kinds.FOLDED)
    run.path(kinds.FOLDED).write_bytes(model.SerializeToString())
    run.record(kinds.FOLDED, made_from=folded.made_from, facts=folded.facts)
    assert main(["build", "--dry-run", *where]) == 1
    out = capsys.readouterr().out
    assert "area" in out
    assert "Det" in out
    assert not run.path(kinds.PLAN).exists()
