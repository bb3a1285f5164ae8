"""The manifest chains what was made from what, and refuses what does not fit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bn_deploy import run_folder as kinds
from bn_deploy.errors import InputError, RunFolderError
from bn_deploy.run_folder import FILES, RunFolder
from bn_deploy.spec import Precision


def _fill(root: Path) -> RunFolder:
    """A folder with a checkpoint, a folded model and a plan, chained."""
    run = RunFolder(root)
    root.mkdir(exist_ok=True)
    run.path(kinds.CHECKPOINT).write_bytes(b"weights")
    checkpoint = run.record(kinds.CHECKPOINT, made_from={"dataset.synthetic": "d" * 64})
    run.path(kinds.FOLDED).write_bytes(b"graph")
    folded = run.record(kinds.FOLDED, made_from={kinds.CHECKPOINT: checkpoint.sha256}, facts={"n": 1})
    run.path(kinds.PLAN).write_bytes(b"plan")
    run.record(kinds.PLAN, made_from={kinds.FOLDED: folded.sha256})
    return run


def test_another_process_reads_what_was_recorded(tmp_path: Path) -> None:
    written = _fill(tmp_path / "run")
    read = RunFolder(tmp_path / "run")
    for kind in (kinds.CHECKPOINT, kinds.FOLDED, kinds.PLAN):
        assert read.require(kind) == written.require(kind)
    assert read.require(kinds.FOLDED).facts == {"n": 1}


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    _fill(tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    assert RunFolder(tmp_path / "elsewhere").require(kinds.PLAN).path == tmp_path / "elsewhere" / "model.plan"


@pytest.mark.parametrize("kind", list(FILES))
def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path, kind: str) -> None:
    name, command = FILES[kind]
    with pytest.raises(RunFolderError, match=f"{re.escape(name)}.*`{re.escape(command)}`"):
        RunFolder(tmp_path).require(kind)


def test_a_file_that_nobody_recorded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"from somewhere")
    with pytest.raises(RunFolderError, match="was not made here"):
        RunFolder(tmp_path).require(kinds.PLAN)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.INT8_FP16])
def test_a_plan_whose_side_car_was_changed_is_refused(tmp_path: Path, precision: Precision) -> None:
    run = RunFolder(tmp_path)
    plan, beside = (kinds.of_precision(kind, precision) for kind in (kinds.PLAN, kinds.SIDECAR))
    for kind in (plan, beside):
        run.path(kind).write_bytes(b"{}")
        run.record(kind, made_from={})
    assert run.require(plan).path == run.path(plan)
    run.path(beside).write_bytes(b"[]")
    with pytest.raises(RunFolderError, match=rf"{re.escape(run.path(beside).name)} is not the file that"):
        run.require(plan)


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    run = _fill(tmp_path)
    run.path(kinds.FOLDED).write_bytes(b"Graph")
    with pytest.raises(RunFolderError, match="SHA-256 differs"):
        run.require(kinds.FOLDED)


def test_what_was_made_from_something_replaced_is_stale(tmp_path: Path) -> None:
    run = _fill(tmp_path)
    run.path(kinds.CHECKPOINT).write_bytes(b"trained again")
    run.record(kinds.CHECKPOINT, made_from={})
    with pytest.raises(RunFolderError, match=r"another checkpoint.safetensors.*`bn-deploy export --fold-bn`"):
        run.require(kinds.FOLDED)


def test_staleness_is_found_through_the_whole_chain(tmp_path: Path) -> None:
    run = _fill(tmp_path)
    run.path(kinds.CHECKPOINT).write_bytes(b"trained again")
    run.record(kinds.CHECKPOINT, made_from={})
    with pytest.raises(RunFolderError, match=r"another checkpoint.safetensors"):
        run.require(kinds.PLAN)


def test_a_checkpoint_from_elsewhere_is_found_again(tmp_path: Path) -> None:
    outside = tmp_path / "models" / "c.safetensors"
    outside.parent.mkdir()
    outside.write_bytes(b"weights")
    RunFolder(tmp_path / "runs" / "x").record_foreign_checkpoint(outside)
    found = RunFolder(tmp_path / "runs" / "x").require(kinds.FOREIGN_CHECKPOINT)
    assert found.path.resolve() == outside.resolve()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("not json", "is not JSON"),
        ("{}", "is not in the format"),
        (json.dumps({"format": kinds.FORMAT, "artifacts": {"plan": {"path": "x"}}}), "is damaged"),
        (json.dumps({"format": kinds.FORMAT, "artifacts": []}), "is damaged"),
        (json.dumps({"format": kinds.FORMAT}), "is damaged"),
    ],
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        RunFolder(tmp_path)


def test_two_commands_at_once_lose_nothing(tmp_path: Path) -> None:
    first, second = _fill(tmp_path), RunFolder(tmp_path)
    first.path(kinds.PARITY).write_bytes(b"{}")
    first.record(kinds.PARITY, made_from={})
    second.path(kinds.LATENCY).write_bytes(b"{}")
    second.record(kinds.LATENCY, made_from={})
    assert RunFolder(tmp_path).find(kinds.PARITY) is not None
    assert RunFolder(tmp_path).find(kinds.LATENCY) is not None


def test_what_is_forgotten_is_no_longer_recorded_but_still_there(tmp_path: Path) -> None:
    run = _fill(tmp_path)
    run.forget(kinds.PLAN)
    run.forget(kinds.PARITY)  # never was
    assert RunFolder(tmp_path).find(kinds.PLAN) is None
    assert RunFolder(tmp_path).find(kinds.FOLDED) is not None
    assert run.path(kinds.PLAN).is_file()


def test_every_kind_has_its_own_name() -> None:
    names = [name for name, _ in FILES.values()]
    assert len(set(names)) == len(names)
