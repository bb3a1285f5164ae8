"""What a benchmark is about: the forms of a run folder's network, or ONNX files that anybody made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import sha256_file
from bn_deploy.backends import BACKENDS, Backend, backend, takers
from bn_deploy.backends.base import Array
from bn_deploy.backends.options import AS_IT_IS, RunOptions, flag
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
    *,
    chosen: Sequence[str] = (),
    running: RunOptions = AS_IT_IS,
    precision: Precision | None = None,
) -> Subject:
    """The forms of a run folder's network, in the order of the backends and of FORMS.

    Args:
        run: where the models are.
        checkpoint: what they were made from.
        dataset: its test images are the inputs.
        backends: which ones; none means all that can run here.
        chosen: which of FORMS; none means all that the network has.
        running: what else is asked of the backends that take it.
        precision: what the backends that can be asked for one are to compute in.

    Raises:
        RunFolderError: a file is missing or stale.
        InputError: a form that the network does not have, or an option that no backend here takes.
        NotAvailable: a backend that was named, every one, or the one that takes an option cannot run here.
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
    candidates = in_precision(asked(candidates, running, unavailable), precision)
    return Subject(candidates, {name: dataset.test.images}, digests, checkpoint.dataset, unavailable)


def of_files(
    files: Sequence[Path],
    backends: Sequence[str],
    inputs: Path | None,
    running: RunOptions = AS_IT_IS,
    precision: Precision | None = None,
) -> Subject:
    """ONNX files, each with random or given inputs, which must be those of the first.

    Args:
        files: one or more.
        backends: which ones; none means ONNX Runtime.
        inputs: a .npz file with an array for each input; without it, random numbers.
        running: what else is asked of the backends that take it.
        precision: what the backends that can be asked for one are to compute in.

    Raises:
        InputError: a file is given twice or cannot be opened, a backend takes no ONNX file, the inputs do not
            fit, or an option that no backend here takes.
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
    candidates = in_precision(asked(candidates, running), precision)
    with rows[0].open(files[0], threads=1) as runner:
        feeds = read_feeds(inputs, runner.inputs) if inputs else random_feeds(runner.inputs)
    digests = {str(path): sha256_file(path) for path in files}
    return Subject(candidates, feeds, digests, str(inputs) if inputs else "random inputs")


def asked(
    candidates: Sequence[Candidate], running: RunOptions, unavailable: Mapping[str, str] | None = None
) -> list[Candidate]:
    """The candidates, each with the options that its backend takes.

    Args:
        candidates: what is to be timed.
        running: what is asked for.
        unavailable: backends that cannot run here, each with the reason.

    Raises:
        InputError: an option that means nothing to any of them.
        NotAvailable: so it is, because the backend that takes it cannot run here.
    """
    rows = {candidate.backend: backend(candidate.backend) for candidate in candidates}
    for name in running.asked():
        if any(name in row.takes for row in rows.values()):
            continue
        for missing, reason in (unavailable or {}).items():
            if name in backend(missing).takes:
                raise NotAvailable(f"{flag(name)} is for {missing}, which cannot be timed here: {reason}")
        raise InputError(f"{flag(name)} means nothing to {', '.join(rows)}; {takers(name)} takes it")
    return [replace(one, running=running.only(rows[one.backend].takes)) for one in candidates]


def in_precision(candidates: Sequence[Candidate], precision: Precision | None) -> list[Candidate]:
    """The candidates, of which those whose backend can be asked for a precision must compute in this one.

    Raises:
        InputError: none of them can be asked for it.
    """
    if precision is None:
        return list(candidates)
    able = {one.backend for one in candidates if precision in backend(one.backend).precisions}
    if not able:
        others = [row.name for row in BACKENDS if precision in row.precisions]
        names = ", ".join(dict.fromkeys(one.backend for one in candidates))
        raise InputError(
            f"{names} cannot be asked for {precision.value}, {' or '.join(others) or 'as no backend'} can; "
            f"`bn-deploy export --precision {precision.value}` makes a file that is typed"
        )
    return [replace(one, precision=precision.value) if one.backend in able else one for one in candidates]


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
