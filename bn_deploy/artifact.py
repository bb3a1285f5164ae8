"""Files that a run leaves behind: what they are, where they came from, and how they get their name.

The one home of digests and of writing: a file appears under its final name whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bn_deploy.errors import InputError, RunFolderError


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of `data`, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, read in blocks.

    Raises:
        InputError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place only when the block succeeds.

    The content is flushed to disk before the rename, and the rename before returning, so that a process
    or a machine that dies leaves either the old file or the new one. The temporary name ends as `path`
    does, for writers that look at the suffix.

    Raises:
        InputError: the folder cannot be made or written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_files(path: Path) -> Iterator[Path]:
    """Yields a path called as `path`, in a temporary folder beside it, for a file that comes with others.

    When the block succeeds, whatever was written into that folder takes its place beside `path`, all of it or
    nothing. One file replaces an older one in one step. Where there are several, the older ones are moved out
    of the way first: a machine that dies in between leaves files missing, never an old one with a new one.

    Raises:
        InputError: the folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield folder / path.name
            made = sorted(folder.iterdir())
            for file in made:
                with file.open("rb+") as stream:
                    os.fsync(stream.fileno())
            _move(made, path.parent, folder)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _move(files: Sequence[Path], into: Path, attic: Path) -> None:
    """Moves `files` into the folder `into`; if one cannot be moved, that folder is left as it was."""
    with ExitStack() as undo:
        for file in files if len(files) > 1 else ():  # one file is replaced in one step
            target, older = into / file.name, attic / f"{file.name}.older"
            if os.path.lexists(target):
                target.replace(older)
                undo.callback(older.replace, target)
        for file in files:
            target = into / file.name
            file.replace(target)
            undo.callback(target.unlink)
        undo.pop_all()


def _sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` durable, where the system can sync a folder (Windows cannot)."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with a final newline, whole or not at all; NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        InputError: the file cannot be read, or holds no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds no JSON object")
    return value


@dataclass(frozen=True)
class Artifact:
    """One file with its provenance.

    Attributes:
        kind: what it is, such as "checkpoint" or "onnx.folded".
        path: where it lies.
        sha256: digest of its content when it was made.
        made_by: the command that made it.
        made_from: digest of each thing it was made from, by kind: the link to its ancestors.
        facts: what else is worth telling about it, fit for JSON.
    """

    kind: str
    path: Path
    sha256: str
    made_by: str
    made_from: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, kind: str, path: Path, made_by: str, made_from: Mapping[str, str], facts: Mapping[str, Any]
    ) -> Artifact:
        """Describes the file at `path` as it is now."""
        return cls(kind, path, sha256_file(path), made_by, dict(made_from), dict(facts))

    def check(self) -> Artifact:
        """Returns itself if the file still has the recorded content.

        Raises:
            RunFolderError: it is gone, or its content is another one.
        """
        if not self.path.is_file():
            raise RunFolderError(f"{self.path} is gone; `{self.made_by}` makes it")
        if sha256_file(self.path) != self.sha256:
            raise RunFolderError(
                f"{self.path} is not the file that `{self.made_by}` made (its SHA-256 differs from the "
                f"manifest's); run `{self.made_by}` again"
            )
        return self
