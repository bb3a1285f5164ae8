"""What a run folder holds for whoever measures its files, and what runners tell afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bn_deploy import data
from bn_deploy import run_folder as kinds
from bn_deploy.backends.base import Facts, Runner, facts
from bn_deploy.data.dataset import Dataset
from bn_deploy.errors import DataError, NotAvailable, RunFolderError
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Track, silent
from bn_deploy.train.checkpoint import Checkpoint, load_checkpoint
from bn_deploy.verify.parity import Parity, StageParity


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


def with_graphs(parity: Parity, runners: Mapping[str, Runner]) -> Parity:
    """Adds to a form's provider whether its calls were one recorded CUDA graph, or why not if that was asked.

    Args:
        parity: the comparison, done: a runner knows only once it has run.
        runners: who ran a form, by its name; forms that are not among them stay as they are.
    """

    def launched(stage: StageParity) -> StageParity:
        known = facts(runners[stage.stage]) if stage.stage in runners else Facts()
        if known.no_cuda_graph:
            return replace(stage, provider=f"{stage.provider}, no CUDA graph: {known.no_cuda_graph}")
        return replace(stage, provider=f"{stage.provider}, CUDA graph") if known.cuda_graph else stage

    return replace(parity, stages=tuple(map(launched, parity.stages)))
