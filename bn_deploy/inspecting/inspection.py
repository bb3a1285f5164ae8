"""What is told of a file, whichever kind it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from bn_deploy.artifact import sha256_file
from bn_deploy.errors import InputError
from bn_deploy.spec import TensorSpec


@dataclass(frozen=True)
class Inspection:
    """What is in a file.

    Attributes:
        kind: "checkpoint", "onnx" or "plan".
        path: the file.
        size_bytes: its size.
        sha256: its digest.
        origin: where it comes from, as it tells itself.
        inputs: what it takes; none for a checkpoint.
        outputs: what it gives.
        totals: what is told of the whole, by name.
        rows: what is told of each part, the same names in each.
        notes: what could not be told, and why.
    """

    kind: str
    path: Path
    size_bytes: int
    sha256: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    totals: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The findings as JSON values."""
        return {
            "kind": self.kind,
            "file": str(self.path),
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "origin": dict(self.origin),
            "inputs": [_spec(spec) for spec in self.inputs],
            "outputs": [_spec(spec) for spec in self.outputs],
            "totals": dict(self.totals),
            "rows": [dict(row) for row in self.rows],
            "notes": list(self.notes),
        }


# Suffix -> the file that knows the kind; its `inspect` takes the path, the size and the digest.
_KINDS = {
    ".safetensors": "bn_deploy.inspecting.weights",
    ".onnx": "bn_deploy.inspecting.model",
    ".plan": "bn_deploy.inspecting.plan",
    ".engine": "bn_deploy.inspecting.plan",
}


def inspect_file(path: Path) -> Inspection:
    """Looks into the file at `path`, whose kind its suffix tells.

    Raises:
        InputError: it cannot be read, is damaged, or is of none of the kinds.
    """
    module = _KINDS.get(path.suffix.lower())
    if module is None:
        if not path.exists():
            raise InputError(f"there is no file {path}")
        raise InputError(f"{path} is of no known kind; the suffixes are {', '.join(_KINDS)}")
    digest = sha256_file(path)  # reads it: the first to say that it is not there
    inspect: Callable[[Path, int, str], Inspection] = import_module(module).inspect
    return inspect(path, path.stat().st_size, digest)


def _spec(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}
