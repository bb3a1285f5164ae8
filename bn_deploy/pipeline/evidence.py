"""What a run folder holds for whoever measures its files, and bench, the command that times them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bn_deploy import data
from bn_deploy import run_folder as kinds
from bn_deploy.backends import BACKENDS
from bn_deploy.backends.base import Feeds
from bn_deploy.bench.environment import environment
from bn_deploy.bench.measure import Candidate, MeasureOptions, measure
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.data.dataset import Dataset
from bn_deploy.errors import DataError, NotAvailable, RunFolderError
from bn_deploy.exporting.onnx_file import export as export_onnx
from bn_deploy.pipeline.forms import Forms, forms_of
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Track, silent
from bn_deploy.train.checkpoint import Checkpoint, load_checkpoint


def origin(run: RunFolder) -> Checkpoint:
    """The checkpoint that the folded model was made from.

    Raises:
        RunFolderError: the folded model or the checkpoint is missing or stale.
    """
    ancestors = run.require(kinds.FOLDED).made_from
    for kind in (kinds.CHECKPOINT, kinds.FOREIGN_CHECKPOINT):
        if kind in ancestors:
            return load_checkpoint(run.require(kind).path)
    raise RunFolderError(f"{run.path(kinds.FOLDED)} does not say which checkpoint it was made from")


def load_dataset(checkpoint: Checkpoint, data_dir: Path | None, track: Track = silent) -> Dataset:
    """The data that a checkpoint was trained on.

    Raises:
        DataError: they cannot be had, or are not the same.
    """
    return same(data.load(checkpoint.dataset, data_dir=data_dir, track=track), checkpoint)


def same(dataset: Dataset, checkpoint: Checkpoint) -> Dataset:
    """`dataset`, which must be the one that the checkpoint was trained on.

    Raises:
        DataError: it is not.
    """
    if dataset.digest != checkpoint.dataset_digest:
        raise DataError(f"the data set {dataset.name} here is not the one that the checkpoint was trained on")
    return dataset


def plan(run: RunFolder) -> Path:
    """The run folder's plan.

    Raises:
        NotAvailable: none has been built yet.
        RunFolderError: it is stale, or not the recorded one.
    """
    if run.find(kinds.PLAN) is None:
        raise NotAvailable("no engine has been built yet; `bn-deploy build` makes one")
    return run.require(kinds.PLAN).path


@dataclass(frozen=True)
class Benched:
    """What `bench` measured, and which backends it could not measure, each with the reason."""

    record: LatencyRecord
    unavailable: dict[str, str]


def bench(
    run: RunFolder,
    options: MeasureOptions,
    *,
    backends: Sequence[str] = (),
    threads: int = 1,
    dataset: Dataset | None = None,
    data_dir: Path | None = None,
    track: Track = silent,
) -> Benched:
    """Times the forms of the network in each backend; writes latency.json.

    Args:
        run: where the models are.
        options: batch sizes, scope and how long.
        backends: which ones, each of which must then be there; none means all that are.
        threads: CPU threads of each backend that has them.
        dataset: the data whose test images are the inputs, if they are in memory already.
        data_dir: else, the folder that they are read from.
        track: follows the measurement.

    Raises:
        RunFolderError: a file is missing or stale.
        NotAvailable: a backend that was named, or every one, cannot run here.
        InputError: an engine does not take one of the batch sizes.
    """
    checkpoint = origin(run)
    run.prepare()  # a folder that cannot be written is found before the work
    dataset = same(dataset, checkpoint) if dataset else load_dataset(checkpoint, data_dir, track)
    images = dataset.test.images
    forms = forms_of(checkpoint)
    name = forms.row.inputs[0].name
    unavailable: dict[str, str] = {}
    candidates: list[Candidate] = []
    digests: dict[str, str] = {}
    with ExitStack() as stack:
        for row in BACKENDS:
            if backends and row.name not in backends:
                continue
            try:
                given = _sources(row.name, run, forms, stack)
                digests |= given.digests
                for label, source in given.by_label.items():
                    runner = stack.enter_context(row.open(source, threads=threads))
                    candidates.append(Candidate(label, runner, None if row.source == "plan" else threads))
            except NotAvailable as error:
                if backends:
                    raise
                unavailable[row.name] = str(error)

        def feeds(batch: int) -> Feeds:
            return {name: np.resize(images, (batch, *images.shape[1:]))}

        results = measure(candidates, feeds, options, track=track)
    record = LatencyRecord(environment(), options, digests, checkpoint.dataset, tuple(results))
    record.write(run.path(kinds.LATENCY))
    run.record(kinds.LATENCY, made_from=digests, facts={"unavailable": unavailable})
    return Benched(record, unavailable)


@dataclass(frozen=True)
class _Sources:
    """What one backend can be given: each form of the network by label, and the digests of their files."""

    by_label: dict[str, object]
    digests: dict[str, str]


def _sources(name: str, run: RunFolder, forms: Forms, stack: ExitStack) -> _Sources:
    """The forms that backend `name` runs; what is made for them only lives as long as `stack`."""
    custom = {"custom": forms.trained} if forms.norm == "custom" else {}
    folded = run.require(kinds.FOLDED)
    digests = {**folded.made_from, kinds.FOLDED: folded.sha256}
    if name == "torch":
        networks = {**custom, "native": forms.converted, "folded": forms.folded}
        return _Sources({label: forms.bounded(network) for label, network in networks.items()}, digests)
    if name == "trt":
        plan_file = plan(run)
        return _Sources({"folded": plan_file}, {**digests, kinds.PLAN: run.require(kinds.PLAN).sha256})
    sources: dict[str, object] = {}
    for label, network in custom.items():
        # The hand-written layer as it stands, in elementwise operators: what converting and folding are
        # measured against. It is of no other use, so it is no file of the run.
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "model.custom.onnx"
        export_onnx(network, path, inputs=forms.row.inputs, outputs=forms.row.outputs, batchnorms=0)
        sources[label] = path
    native_file = run.require(kinds.NATIVE)
    sources |= {"native": native_file.path, "folded": folded.path}
    return _Sources(sources, {**digests, kinds.NATIVE: native_file.sha256})
