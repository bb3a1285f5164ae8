"""What a benchmark is about: the forms of a run folder's network, or ONNX files that anybody made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import sha256_file
from bn_deploy.backends import BACKENDS, Backend, backend
from bn_deploy.backends.base import Array
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.data.dataset import Dataset
from bn_deploy.errors import InputError, NotAvailable, RunFolderError
from bn_deploy.model import model
from bn_deploy.pipeline.evidence import plan
from bn_deploy.pipeline.worker import FORMS
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Precision
from bn_deploy.train.checkpoint import Checkpoint
from bn_deploy.verify.files import random_feeds, read_feeds

BASE = "ort"
"""The backend that the others are compared with, where it is there: every machine can have it."""


@dataclass(frozen=True)
class Subject:
    """What is to be timed, before anything is known of how.

    Attributes:
        candidates: in the order of the tables, without threads.
        rows: each input by name, its rows on the first axis.
        artifacts: SHA-256 of each file, by kind or name.
        dataset: name of the data.
        unavailable: backends that cannot run here, each with the reason.
    """

    candidates: Sequence[Candidate]
    rows: Mapping[str, Array]
    artifacts: Mapping[str, str]
    dataset: str
    unavailable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Given:
    """What one kind of backend can be given: each form's source by label, and the digests of their files."""

    sources: Mapping[str, Source]
    digests: Mapping[str, str]


def of_run(
    run: RunFolder,
    checkpoint: Checkpoint,
    dataset: Dataset,
    backends: Sequence[str],
    chosen: Sequence[str] = (),
) -> Subject:
    """The forms of a run folder's network, in the order of the backends and of FORMS.

    Args:
        run: where the models are.
        checkpoint: what they were made from.
        dataset: its test images are the inputs.
        backends: which ones; none means all that can run here.
        chosen: which of FORMS; none means all that the network has.

    Raises:
        RunFolderError: a file is missing or stale.
        InputError: a form that the network does not have.
        NotAvailable: a backend that was named, or every one, cannot run here.
    """
    has = [form for form in FORMS if form != "custom" or checkpoint.norm == "custom"]
    if unknown := [form for form in chosen if form not in has]:
        raise InputError(f"the network has no form {unknown[0]!r}; it has {', '.join(has)}")
    labels = [form for form in has if form in chosen or not chosen]
    rows, unavailable = usable(backends)
    folded = run.require(kinds.FOLDED)
    digests = {**folded.made_from, kinds.FOLDED: folded.sha256}
    candidates: list[Candidate] = []
    for row in rows:
        try:
            given = _GIVEN[row.source](run, checkpoint, labels)
        except NotAvailable as error:
            if backends:
                raise
            unavailable[row.name] = str(error)
            continue
        digests |= given.digests
        candidates += [
            Candidate(label, row.name, source, None, precision=_precision(label), provider=_provider(row))
            for label, source in given.sources.items()
        ]
    if not candidates:
        raise NotAvailable("; ".join(f"{name}: {reason}" for name, reason in unavailable.items()))
    (name,) = [spec.name for spec in model(checkpoint.model).inputs]
    return Subject(candidates, {name: dataset.test.images}, digests, checkpoint.dataset, unavailable)


def of_files(files: Sequence[Path], backends: Sequence[str], inputs: Path | None) -> Subject:
    """ONNX files, each with random or given inputs, which must be those of the first.

    Args:
        files: one or more.
        backends: which ones; none means ONNX Runtime.
        inputs: a .npz file with an array for each input; without it, random numbers.

    Raises:
        InputError: a file is given twice or cannot be opened, a backend takes no ONNX file, or the inputs do
            not fit.
        NotAvailable: a backend cannot run here.
    """
    if len({path.resolve() for path in files}) != len(files):
        raise InputError("the same file twice: a network is always timed against itself, so one is enough")
    rows, _ = usable(backends or (BASE,))
    if wrong := [row.name for row in rows if row.source != "onnx"]:
        raise InputError(f"the backend {wrong[0]} takes no ONNX file")
    labels = [path.stem for path in files]
    if len(set(labels)) != len(labels):
        labels = [str(path) for path in files]
    candidates = [
        Candidate(label, row.name, Source("onnx", str(path.resolve())), None, provider=_provider(row))
        for row in rows
        for label, path in zip(labels, files, strict=True)
    ]
    with rows[0].open(files[0], threads=1) as runner:
        feeds = read_feeds(inputs, runner.inputs) if inputs else random_feeds(runner.inputs)
    digests = {str(path): sha256_file(path) for path in files}
    return Subject(candidates, feeds, digests, str(inputs) if inputs else "random inputs")


def usable(names: Sequence[str]) -> tuple[list[Backend], dict[str, str]]:
    """The backends to time, and those that cannot run here, each with the reason.

    Args:
        names: which ones, each of which must then be there; none means all that are and need no compiler,
            BASE first.

    Raises:
        NotAvailable: one that was named, or every one, cannot run here.
    """
    rows, reasons = [], {}
    for row in [backend(name) for name in names] or sorted(BACKENDS, key=lambda row: row.name != BASE):
        reason = row.why_not()
        if reason is None and row.compiles and not names:
            reason = f"it compiles in every process, which takes long; --backend {row.name} times it"
        if reason is None:
            rows.append(row)
        elif names:
            raise NotAvailable(f"{row.name}: {reason}")
        else:
            reasons[row.name] = reason
    if not rows:
        raise NotAvailable("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))
    return rows, reasons


def _precision(label: str) -> str:
    """The precision that a form must compute in: what comes after the dot, else fp32."""
    return label.partition(".")[2] or Precision.FP32.value


def _provider(row: Backend) -> str | None:
    return row.given.get("provider")


def _networks(run: RunFolder, checkpoint: Checkpoint, labels: Sequence[str]) -> _Given:  # noqa: ARG001 - see _GIVEN
    """For torch: the worker rebuilds each form from the checkpoint."""
    ancestors = run.require(kinds.FOLDED).made_from
    for kind in (kinds.CHECKPOINT, kinds.FOREIGN_CHECKPOINT):
        if kind in ancestors:
            path = str(run.require(kind).path.resolve())
            return _Given({label: Source("checkpoint", path, label) for label in labels}, {})
    raise RunFolderError(f"{run.path(kinds.FOLDED)} does not say which checkpoint it was made from")


def _onnx_files(run: RunFolder, checkpoint: Checkpoint, labels: Sequence[str]) -> _Given:
    """The custom, the native and the folded file."""
    artifacts = {}
    for label in labels:
        if label == "custom":
            write_custom(run, checkpoint)
        artifacts[label] = run.require(
            {"custom": kinds.CUSTOM, "native": kinds.NATIVE, "folded": kinds.FOLDED}[label]
        )
    return _Given(
        {label: Source("onnx", str(artifact.path.resolve())) for label, artifact in artifacts.items()},
        {artifact.kind: artifact.sha256 for artifact in artifacts.values()},
    )


def write_custom(run: RunFolder, checkpoint: Checkpoint) -> None:
    """Writes model.custom.onnx, unless it is there: the hand-written layer in elementwise operators.

    It is what converting and folding are measured against, and of no other use.
    """
    native = run.require(kinds.NATIVE)
    known = run.find(kinds.CUSTOM)
    if known is not None and known.made_from == native.made_from and known.path.is_file():
        return
    # The exporter takes a second to load; where the file is there, nobody waits for it.
    from bn_deploy.exporting.onnx_file import export, inspect

    row = model(checkpoint.model)
    export(
        checkpoint.network,
        run.path(kinds.CUSTOM),
        inputs=row.inputs,
        outputs=row.outputs,
        metadata=inspect(native.path).metadata,
        batchnorms=0,
    )
    run.record(kinds.CUSTOM, made_from=native.made_from)


def _plans(run: RunFolder, checkpoint: Checkpoint, labels: Sequence[str]) -> _Given:  # noqa: ARG001 - see _GIVEN
    """The engine in every precision that there is one in: all are of the folded network."""
    if "folded" not in labels:
        raise NotAvailable("an engine is only ever built of the folded network")
    path = plan(run)
    sources = {"folded": Source("plan", str(path.resolve()))}
    digests = {kinds.PLAN: run.require(kinds.PLAN).sha256}
    for precision in kinds.TYPED:
        kind = kinds.of_precision(kinds.PLAN, precision)
        if run.find(kind) is not None:
            built = run.require(kind)
            sources[f"folded.{precision.value}"] = Source("plan", str(built.path.resolve()))
            digests[kind] = built.sha256
    return _Given(sources, digests)


_GIVEN: Mapping[str, Callable[[RunFolder, Checkpoint, Sequence[str]], _Given]] = {
    "network": _networks,
    "onnx": _onnx_files,
    "plan": _plans,
}
"""What a backend can be given, by what it takes (see Backend.source)."""
