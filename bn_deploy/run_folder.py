"""One run, one folder: fixed file names, and a manifest that chains what was made from what.

    data -> checkpoint -> onnx.native, onnx.folded -> plan
                                       onnx.folded -> onnx.folded.fp16 -> plan.fp16, and so for each precision

A file whose content is not the recorded one is refused, and so is one that was made from something that has
since been replaced: a stale engine must not be verified against a new checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bn_deploy.artifact import Artifact, read_json, write_json
from bn_deploy.errors import RunFolderError
from bn_deploy.spec import Precision

FORMAT = "bn-deploy-manifest/1"

CHECKPOINT, FOREIGN_CHECKPOINT = "checkpoint", "checkpoint.foreign"
NATIVE, FOLDED, PLAN, SIDECAR = "onnx.native", "onnx.folded", "plan", "plan.sidecar"
TRAINING, TRAINING_PLOT = "training", "training.plot"
PARITY, PARITY_PLOT, REPORT = "parity", "parity.plot", "report"
LATENCY, LATENCY_PLOT, CUSTOM = "latency", "latency.plot", "onnx.custom"

FILES: dict[str, tuple[str, str]] = {
    CHECKPOINT: ("checkpoint.safetensors", "bn-deploy train"),
    TRAINING: ("training.json", "bn-deploy train"),
    TRAINING_PLOT: ("training.png", "bn-deploy train"),
    NATIVE: ("model.onnx", "bn-deploy export"),
    FOLDED: ("model.folded.onnx", "bn-deploy export --fold-bn"),
    PLAN: ("model.plan", "bn-deploy build"),
    SIDECAR: ("model.plan.json", "bn-deploy build"),
    PARITY: ("parity.json", "bn-deploy verify"),
    PARITY_PLOT: ("parity.png", "bn-deploy verify --localise"),
    LATENCY: ("latency.json", "bn-deploy bench"),
    LATENCY_PLOT: ("latency.png", "bn-deploy bench"),
    CUSTOM: ("model.custom.onnx", "bn-deploy bench"),
    REPORT: ("report.json", "bn-deploy run"),
}
"""Each kind of file: its name in the folder and the command that makes it."""

TYPED = tuple(precision for precision in Precision if precision is not Precision.FP32)
"""The precisions that a folded file is given in a file of its own."""


def of_precision(kind: str, precision: Precision) -> str:
    """The kind of FOLDED, PLAN or SIDECAR in a precision; in fp32 it is that kind itself."""
    return kind if precision is Precision.FP32 else f"{kind}.{precision.value}"


for _precision in TYPED:
    _name = _precision.value
    FILES |= {
        of_precision(FOLDED, _precision): (
            f"model.folded.{_name}.onnx",
            f"bn-deploy export --fold-bn --precision {_name}",
        ),
        of_precision(PLAN, _precision): (f"model.{_name}.plan", f"bn-deploy build --precision {_name}"),
        of_precision(SIDECAR, _precision): (
            f"model.{_name}.plan.json",
            f"bn-deploy build --precision {_name}",
        ),
    }


class RunFolder:
    """The folder of one run.

    Args:
        root: where it is; made when something is first written.

    Raises:
        RunFolderError: its manifest cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifest = root / "manifest.json"
        try:
            self._artifacts = self._read()
        except OSError as error:
            raise RunFolderError(f"cannot use {root} as the folder of a run: {error.strerror}") from error

    def prepare(self) -> None:
        """Makes the folder and writes its manifest, so that a folder that cannot be written is found at once.

        Raises:
            InputError: it cannot be written.
        """
        self._change({})

    def path(self, kind: str) -> Path:
        """Where the file of that kind lies, or would."""
        return self.root / FILES[kind][0]

    def find(self, kind: str) -> Artifact | None:
        """The recorded file of that kind, unchecked, or None if none is recorded."""
        return self._artifacts.get(kind)

    def require(self, kind: str) -> Artifact:
        """The recorded file of that kind, checked: there, with the recorded content, of current ancestors.

        Raises:
            RunFolderError: it is not; the message names the command that mends it.
        """
        artifact = self._artifacts.get(kind)
        if artifact is None:
            raise RunFolderError(
                f"{self.path(kind)} is missing, or was not made here; `{FILES[kind][1]}` makes it"
            )
        artifact.check()
        self._check_current(artifact)
        beside = self._artifacts.get(kind.replace(PLAN, SIDECAR, 1)) if kind.startswith(PLAN) else None
        if beside is not None:
            beside.check()  # a plan is read by what its side-car says
        return artifact

    def _place(self, path: str) -> Path:
        """Where a path of the manifest leads; one that leaves the folder does so from where the folder is."""
        return (self.root.resolve() if path.startswith("..") else self.root) / path

    def _check_current(self, artifact: Artifact, seen: frozenset[str] = frozenset()) -> None:
        """Refuses what was made from something that has been replaced since, however many steps back."""
        if artifact.kind in seen:
            raise RunFolderError(f"{self._manifest} is damaged: {artifact.kind} was made from itself")
        for ancestor, digest in artifact.made_from.items():
            known = self._artifacts.get(ancestor)
            if known is None and ancestor not in FILES:
                continue  # not a file of a run, such as a data set
            if known is None or known.sha256 != digest:
                name = FILES[ancestor][0] if ancestor in FILES else "checkpoint"
                raise RunFolderError(
                    f"{artifact.path} was made from another {name} than is there now; "
                    f"run `{artifact.made_by}` again"
                )
            self._check_current(known, seen | {artifact.kind})

    def record(
        self, kind: str, *, made_from: Mapping[str, str], facts: Mapping[str, Any] | None = None
    ) -> Artifact:
        """Notes the file of that kind, which was just written, in the manifest."""
        artifact = Artifact.of(kind, self.path(kind), FILES[kind][1], made_from, facts or {})
        self._write(artifact)
        return artifact

    def forget(self, kind: str) -> None:
        """Drops the record of a file that no longer belongs to what is here; the file itself stays."""
        self._change({kind: None})

    def record_foreign_checkpoint(self, path: Path) -> Artifact:
        """Notes a checkpoint that lies elsewhere, so that later commands find where the models came from."""
        made_by = "bn-deploy export --checkpoint FILE"
        artifact = Artifact.of(FOREIGN_CHECKPOINT, path, made_by, {}, {})
        self._write(artifact)
        return artifact

    def _write(self, artifact: Artifact) -> None:
        self._change({artifact.kind: artifact})

    def _change(self, changes: Mapping[str, Artifact | None]) -> None:
        """Writes the manifest with these rows changed, None for dropped.

        It is read again first: another command may have recorded something in the meantime.
        """
        self._artifacts = {**self._read(), **{kind: a for kind, a in changes.items() if a is not None}}
        for kind in [kind for kind, artifact in changes.items() if artifact is None]:
            self._artifacts.pop(kind, None)
        rows = {
            a.kind: {
                # Relative to the folder, so that the folder can be moved.
                "path": Path(os.path.relpath(a.path.resolve(), self.root.resolve())).as_posix(),
                "sha256": a.sha256,
                "made_by": a.made_by,
                "made_from": dict(a.made_from),
                "facts": dict(a.facts),
            }
            for a in self._artifacts.values()
        }
        write_json(self._manifest, {"format": FORMAT, "artifacts": rows})

    def _read(self) -> dict[str, Artifact]:
        if not self._manifest.is_file():
            return {}
        value = read_json(self._manifest)
        if value.get("format") != FORMAT:
            raise RunFolderError(f"{self._manifest} is not in the format {FORMAT}")
        try:
            return {
                kind: Artifact(
                    kind,
                    self._place(str(row["path"])),
                    str(row["sha256"]),
                    str(row["made_by"]),
                    dict(row["made_from"]),
                    dict(row["facts"]),
                )
                for kind, row in value["artifacts"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"{self._manifest} is damaged: {error!r}") from error
