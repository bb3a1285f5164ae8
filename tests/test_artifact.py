"""A file appears under its final name whole or not at all, and is refused when it is not the recorded one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bn_deploy.artifact import (
    Artifact,
    atomic_files,
    atomic_path,
    read_json,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from bn_deploy.errors import InputError, RunFolderError


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one block
    (tmp_path / "x").write_bytes(data)
    assert sha256_file(tmp_path / "x") == sha256_bytes(data)
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half of the n")
            assert path.read_bytes() == b"old"
            raise KeyError("in the middle")

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_process_never_leaves_its_file_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    program = f"""
import os, signal
from pathlib import Path
from bn_deploy.artifact import atomic_path
with atomic_path(Path({str(path)!r})) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    write_bytes(path, b"whole")  # what was left behind is in nobody's way
    assert path.read_bytes() == b"whole"


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "plot.png") as temporary:
        assert temporary.suffix == ".png"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"")


def test_files_get_the_permissions_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("case", ["a file where a folder should be", "a folder where the file should be"])
def test_where_nothing_can_be_written_one_line_says_so(tmp_path: Path, case: str) -> None:
    (tmp_path / "file").write_text("here first")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "file" / "x" if case.startswith("a file") else tmp_path / "folder"
    with pytest.raises(InputError, match="cannot write") as caught:
        write_bytes(path, b"new")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "here first"


def test_json_makes_the_round_trip_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1, 2.5, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json") == {"a": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "is not JSON"), ("[1]", "holds no JSON object"), (None, "cannot read")]
)
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=reason):
        read_json(path)


def test_an_artifact_is_checked_against_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"graph")
    artifact = Artifact.of("onnx.native", path, "bn-deploy export", {"checkpoint": "0" * 64}, {})
    assert artifact.check() is artifact
    path.write_bytes(b"grapg")
    with pytest.raises(RunFolderError, match=r"SHA-256 differs.*bn-deploy export"):
        artifact.check()
    path.unlink()
    with pytest.raises(RunFolderError, match=r"is gone.*bn-deploy export"):
        artifact.check()


def test_facts_must_be_fit_for_json(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    artifact = Artifact.of("x", tmp_path / "x", "a command", {}, {"census": {"Conv": 2}})
    assert json.loads(json.dumps(dict(artifact.facts))) == {"census": {"Conv": 2}}


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write_two(path: Path, data: bytes) -> None:
    with atomic_files(path) as staged:
        assert staged.name == path.name
        staged.write_bytes(data)
        staged.with_name("x.bin.data").write_bytes(data * 2)


def test_files_that_belong_together_appear_together(tmp_path: Path) -> None:
    for data in (b"old", b"new"):
        write_two(tmp_path / "below" / "x.bin", data)
        assert listing(tmp_path / "below") == {"x.bin": data, "x.bin.data": data * 2}


def test_a_failure_among_several_files_keeps_the_old_ones_and_leaves_nothing(tmp_path: Path) -> None:
    write_two(tmp_path / "x.bin", b"old")

    def fail() -> None:
        with atomic_files(tmp_path / "x.bin") as staged:
            staged.write_bytes(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert listing(tmp_path) == {"x.bin": b"old", "x.bin.data": b"oldold"}


@pytest.mark.parametrize("existing", [True, False])
@pytest.mark.parametrize("failing", range(4))
def test_a_file_that_cannot_be_moved_brings_the_others_back(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, existing: bool
) -> None:
    if existing:
        write_two(tmp_path / "x.bin", b"old")
    before = listing(tmp_path)
    moves = 0
    replace = Path.replace

    def fragile(path: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == failing + 1:
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fragile)
    if failing >= 2 and not existing:  # there are no old files to move out of the way
        write_two(tmp_path / "x.bin", b"new")
        assert moves == 2
        return
    with pytest.raises(InputError, match=r"cannot write .*x.bin: Input/output error"):
        write_two(tmp_path / "x.bin", b"new")
    assert listing(tmp_path) == before


def test_one_file_alone_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    moved = []
    replace = Path.replace

    def noted(source: Path, target: Path) -> Path:
        moved.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", noted)
    with atomic_files(path) as staged:
        staged.write_bytes(b"new")
    assert moved == ["x.bin"]
    assert listing(tmp_path) == {"x.bin": b"new"}


def test_files_cannot_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "x.bin").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        write_two(tmp_path / "x.bin", b"new")
