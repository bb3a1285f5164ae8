"""What makes the files of a run: train, export, build. Each function is one command.

A function reads what it needs from the run folder, calls the stages, and writes and records what they made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import atomic_path, read_json, sha256_file, write_json
from bn_deploy.batchnorm.flavours import find
from bn_deploy.bench.measure import CLOCK
from bn_deploy.data.dataset import Dataset
from bn_deploy.engine.build import BuildOptions, BuildResult
from bn_deploy.engine.build import build as build_engine
from bn_deploy.engine.support import DryRun, dry_run
from bn_deploy.errors import InputError
from bn_deploy.exporting.onnx_file import OnnxFile
from bn_deploy.exporting.onnx_file import export as export_onnx
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.model import build as build_network
from bn_deploy.pipeline.file import checked
from bn_deploy.pipeline.forms import forms_of
from bn_deploy.pipeline.precision import TypedFile, give_precision
from bn_deploy.report.plots import plot_training
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import CALIBRATION_IMAGES, TENSORRT_10, Precision, Track, silent
from bn_deploy.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bn_deploy.train.loop import Training
from bn_deploy.train.loop import train as train_network
from bn_deploy.train.recipe import Recipe
from bn_deploy.verify.pair import PairParity
from bn_deploy.version import version

TRAINING_FORMAT = "bn-deploy-training/1"


def train(
    run: RunFolder,
    dataset: Dataset,
    recipe: Recipe,
    *,
    model_name: str = "lenet",
    norm: str = "custom",
    threads: int | None = None,
    track: Track = silent,
) -> Training:
    """Trains a network and writes checkpoint, training.json and training.png.

    `threads` are torch's CPU threads; None leaves them as they are.

    Raises:
        InputError: there is no such model or norm, or the folder cannot be written.
        CheckFailed: the training diverged.
    """
    network, training = train_network(
        lambda: build_network(model_name, norm), dataset, recipe, clock=CLOCK, threads=threads, track=track
    )
    checkpoint = Checkpoint(
        network=network,
        model=model_name,
        norm=norm,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        dataset_notice=dataset.notice,
        recipe=recipe.to_json(),
        metrics={
            "test_accuracy": training.test_accuracy,
            "test_accuracy_moving": training.test_accuracy_moving,
            "statistics_images": training.statistics_images,
            "threads": training.threads,
        },
    )
    save_checkpoint(run.path(kinds.CHECKPOINT), checkpoint)
    made = run.record(
        kinds.CHECKPOINT,
        made_from={f"dataset.{dataset.name}": dataset.digest},
        facts={"model": model_name, "norm": norm, "dataset": dataset.name, "dataset_notice": dataset.notice},
    )
    about = {"dataset": dataset.name, "dataset_digest": dataset.digest, "dataset_notice": dataset.notice}
    write_json(
        run.path(kinds.TRAINING),
        {"format": TRAINING_FORMAT, **about, "recipe": recipe.to_json(), **training.to_json()},
    )
    run.record(kinds.TRAINING, made_from={kinds.CHECKPOINT: made.sha256})
    plot_training(training, dataset.name, run.path(kinds.TRAINING_PLOT))
    run.record(kinds.TRAINING_PLOT, made_from={kinds.CHECKPOINT: made.sha256})
    return training


def read_training(path: Path) -> dict[str, Any]:
    """The content of training.json, as far as reports show it.

    Raises:
        InputError: it is something else.
    """
    value = read_json(path)
    shares = [value.get(name) for name in ("test_accuracy", "test_accuracy_moving")]
    if value.get("format") != TRAINING_FORMAT or not all(
        isinstance(s, float) and 0 <= s <= 1 for s in shares
    ):
        raise InputError(f"{path} is damaged; run `bn-deploy train` again")
    speed, threads = value.get("examples_per_s"), value.get("threads")
    if not (isinstance(speed, float) and math.isfinite(speed) and isinstance(threads, int)):
        raise InputError(f"{path} is damaged; run `bn-deploy train` again")
    return value


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: the network as trained, and, if asked for, without batch norms.

    Attributes:
        native, folded: the two files.
        report: what became of each batch norm.
        parity: how far the second file is from the first; None if not compared.
        typed: the second file in another precision than fp32; None if not asked for.
    """

    native: OnnxFile
    folded: OnnxFile | None
    report: FoldReport | None
    parity: PairParity | None
    typed: TypedFile | None = None


def export(
    run: RunFolder,
    *,
    checkpoint: Path | None,
    fold_bn: bool,
    check: bool = True,
    precision: Precision = Precision.FP32,
    calibration_images: int = CALIBRATION_IMAGES,
    target: str = TENSORRT_10,
    data_dir: Path | None = None,
    track: Track = silent,
) -> Exported:
    """Writes model.onnx (as trained, in standard operators) and, with `fold_bn`, model.folded.onnx.

    In a precision other than fp32, that file is also written in that precision, as
    model.folded.PRECISION.onnx.

    Args:
        run: where they go.
        checkpoint: the network; None takes the run folder's own.
        fold_bn: whether to write the second file.
        check: whether to compare the second file with the first before it gets its name.
        precision: which one, besides fp32, which is always written; it asks for `fold_bn`.
        calibration_images: how many training images that is measured on.
        target: which TensorRT that file is for, of spec.TARGETS.
        data_dir: where the training images are; None takes the usual places.
        track: follows the measurements.

    Raises:
        InputError: a precision is asked for, and not `fold_bn`.
        CheckpointError, RunFolderError: the checkpoint cannot be used.
        CheckFailed: an exported graph is not what it must be, or the two files do not compute the same; that
            file is not replaced.
        Inconclusive: the two files cannot be compared; the second one is not replaced.
        Also what `give_precision` raises; the two other files are written then.
    """
    if precision is not Precision.FP32 and not fold_bn:
        raise InputError(f"only the folded network is written in {precision.value}; ask for fold_bn too")
    path = run.require(kinds.CHECKPOINT).path if checkpoint is None else checkpoint
    loaded = load_checkpoint(path)
    digest = sha256_file(path)
    made_from = {kinds.CHECKPOINT if checkpoint is None else kinds.FOREIGN_CHECKPOINT: digest}
    forms = forms_of(loaded)
    write = partial(
        export_onnx,
        inputs=forms.row.inputs,
        outputs=forms.row.outputs,
        metadata=_metadata(loaded, digest),
    )
    native = write(forms.converted, run.path(kinds.NATIVE), batchnorms=len(find(forms.converted)))
    if checkpoint is not None:
        run.record_foreign_checkpoint(checkpoint)
    run.record(kinds.NATIVE, made_from=made_from, facts={"census": native.census})
    if not fold_bn:
        if (older := run.find(kinds.FOLDED)) and older.made_from != made_from:
            run.forget(kinds.FOLDED)  # it is of another network than the file just written
        return Exported(native, None, None, None)
    parity = None
    with atomic_path(run.path(kinds.FOLDED)) as staged:
        folded = write(forms.folded, staged, batchnorms=len(forms.report.kept))
        if check:
            otherwise = f"{run.path(kinds.FOLDED)} was not written"
            parity = checked(run.path(kinds.NATIVE), staged, "the folded network", otherwise)
    folded = replace(folded, path=run.path(kinds.FOLDED))
    facts = {"census": folded.census, "folds": forms.report.to_json()}
    made = run.record(kinds.FOLDED, made_from=made_from, facts=facts)
    for other in kinds.TYPED:
        older = run.find(kinds.of_precision(kinds.FOLDED, other))
        if older is not None and older.made_from.get(kinds.FOLDED) != made.sha256:
            for kind in (kinds.FOLDED, kinds.PLAN, kinds.SIDECAR):
                run.forget(kinds.of_precision(kind, other))  # they are of another network
    typed = None
    if precision is not Precision.FP32:
        typed = give_precision(
            run, precision, images=calibration_images, target=target, data_dir=data_dir, track=track
        )
    return Exported(native, folded, forms.report, parity, typed)


def _metadata(checkpoint: Checkpoint, digest: str) -> dict[str, str]:
    """What an ONNX file says of its origin."""
    about = {
        "version": version(),
        "model": checkpoint.model,
        "norm": checkpoint.norm,
        "checkpoint_sha256": digest,
        "dataset": checkpoint.dataset,
        "dataset_sha256": checkpoint.dataset_digest,
        "dataset_notice": checkpoint.dataset_notice,
    }
    return {f"bn_deploy.{key}": value for key, value in about.items() if value}


def try_parsing(run: RunFolder, options: BuildOptions) -> DryRun:
    """Lists what TensorRT cannot import of the file that `build` would take for these options.

    Raises:
        RunFolderError: there is no current file; the message says what makes it.
        NotAvailable: no TensorRT here can parse.
        InputError: an option does not fit this TensorRT.
    """
    precision = options.precision or Precision.FP32
    return dry_run(run.require(kinds.of_precision(kinds.FOLDED, precision)).path, options=options)


def build(run: RunFolder, options: BuildOptions, *, track: Track = silent) -> BuildResult:
    """Builds model.plan and its side-car from model.folded.onnx, or those of a precision from its typed file.

    Which precision is in the options; none means fp32.

    Raises:
        RunFolderError: there is no current file to build from; the message says what makes it.
        NotAvailable: no TensorRT here can build.
        ModelError: TensorRT refuses the network.
    """
    precision = options.precision or Precision.FP32
    model, target, beside = (
        kinds.of_precision(kind, precision) for kind in (kinds.FOLDED, kinds.PLAN, kinds.SIDECAR)
    )
    source = run.require(model)
    result = build_engine(source.path, run.path(target), options=options, track=track)
    made_from = {model: source.sha256}
    facts = {**result.sidecar.to_json(), "warnings": list(result.warnings)}
    plan = run.record(target, made_from=made_from, facts=facts)
    run.record(beside, made_from={**made_from, target: plan.sha256})
    return result
