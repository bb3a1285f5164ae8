"""Weights that an ONNX file keeps in other files, opened only where they may lie.

A model can come from anywhere, and where its weights lie is text in it. Whoever reads what it names could be
made to read, and to write into a new model, any file of this machine. So only plain files inside the model's
folder are opened. The rules are those of onnx's own loader, which has had to learn them: CVE-2022-25882,
CVE-2024-27318, CVE-2026-27489, CVE-2026-34447.
Format: https://onnx.ai/onnx/repo-docs/ExternalData.html.
"""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from bn_deploy.errors import ModelError

_KEYS = {"location", "offset", "length", "checksum", "basepath"}
"""What an entry may say. Checksums go unchecked and base paths unused, by every reader."""

_LARGEST = 1 << 62


@dataclass(frozen=True)
class Entry:
    """Where a tensor says that its content lies.

    Attributes:
        location: path of the file, from the model's folder.
        offset: where the content starts, in bytes.
        length: how many bytes it has; None if the tensor does not say.
    """

    location: str
    offset: int
    length: int | None


def entry_of(tensor: onnx.TensorProto, path: Path) -> Entry:
    """What a tensor of the file `path` says of its place.

    Raises:
        ModelError: it names no file, or says something that is not understood.
    """
    said = {entry.key: entry.value for entry in tensor.external_data}
    unknown = sorted(said.keys() - _KEYS)
    if unknown:
        raise ModelError(f"{path}: the place of {tensor.name} has the unknown key {unknown[0]!r:.60}")
    if not said.get("location"):
        raise ModelError(f"{path}: {tensor.name} is kept in another file, but names none")
    numbers: dict[str, int | None] = {}
    for key, default in (("offset", 0), ("length", None)):
        text = said.get(key)
        if text is None:
            numbers[key] = default
        elif text.isascii() and text.isdigit() and len(text) < 20 and int(text) < _LARGEST:
            numbers[key] = int(text)
        else:
            raise ModelError(f"{path}: the {key} of {tensor.name} is {text!r:.60}, not a number of bytes")
    return Entry(said["location"], numbers["offset"] or 0, numbers["length"])


@dataclass
class DataFiles:
    """The other files of one model, each mapped into memory once.

    Attributes:
        path: the model.
        found: the files that were opened, as they are really called.
    """

    path: Path
    found: set[Path] = field(default_factory=set)
    _mapped: dict[str, memoryview] = field(default_factory=dict)

    def stretch(self, tensor: onnx.TensorProto, size_bytes: int) -> memoryview:
        """The content of an external tensor, which has `size_bytes` by its type and shape.

        Raises:
            ModelError: its file must not be read, is missing, or does not hold it.
        """
        entry = entry_of(tensor, self.path)
        if entry.length not in {None, size_bytes}:
            raise ModelError(
                f"{self.path}: {tensor.name} needs {size_bytes} bytes by its type and shape, "
                f"but says {entry.length}"
            )
        if entry.location not in self._mapped:
            self._mapped[entry.location] = self._open(entry.location, tensor.name)
        data = self._mapped[entry.location]
        if entry.offset + size_bytes > len(data):
            raise ModelError(
                f"{self.path}: {tensor.name} ends at byte {entry.offset + size_bytes} of {entry.location!r}, "
                f"which has only {len(data)}"
            )
        return data[entry.offset : entry.offset + size_bytes]

    def _open(self, location: str, name: str) -> memoryview:
        """The file at `location`, mapped."""
        refused = f"{self.path} keeps {name} in {location!r:.200}"
        windows = PureWindowsPath(location)
        if "\0" in location or windows.anchor or PurePosixPath(location).is_absolute():
            raise ModelError(
                f"{refused}: only a path inside the model's folder is followed, and none from a root"
            )
        if ".." in windows.parts:
            raise ModelError(f"{refused}: only a path inside the model's folder is followed, without '..'")
        folder = self.path.parent.resolve()
        try:
            real = (folder / location).resolve(strict=True)
            if not real.is_relative_to(folder):
                raise ModelError(
                    f"{refused}, a link that leads out of the model's folder; copy the file there"
                )
            about = real.stat()
            if not stat.S_ISREG(about.st_mode):
                raise ModelError(f"{refused}, which is not a file")
            if about.st_nlink > 1:
                raise ModelError(
                    f"{refused}, which has other names (hard links) elsewhere; copy the file there"
                )
            data = mapped(real, about)
        except FileNotFoundError:
            raise ModelError(f"{refused}, and there is no such file") from None
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links is a RuntimeError before 3.13
            raise ModelError(f"{refused}, which cannot be read: {error}") from error
        self.found.add(real)
        return data


def mapped(path: Path, expected: os.stat_result | None = None) -> memoryview:
    """The content of a file, which is read where it is looked at.

    Args:
        path: the file; a link is not followed if `expected` is given.
        expected: what must be there still, so that nobody changes the file after it was looked at.

    Raises:
        OSError: it cannot be read, or another file is there.
    """
    keep = 0 if expected is None else getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | keep)
    try:
        about = os.fstat(handle)
        if expected is not None and (about.st_dev, about.st_ino) != (expected.st_dev, expected.st_ino):
            raise OSError("it was changed meanwhile")
        if not about.st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(handle, 0, access=mmap.ACCESS_READ))
    finally:
        os.close(handle)
