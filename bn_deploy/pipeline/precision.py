"""Gives the folded model of a run a precision: a typed file beside it, from images that it was trained on."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import write_bytes
from bn_deploy.backends import backend
from bn_deploy.backends.base import Array, Runner
from bn_deploy.backends.onnxrt import OrtRunner
from bn_deploy.backends.options import AS_IT_IS, RunOptions
from bn_deploy.data.dataset import Dataset
from bn_deploy.errors import InputError, ModelError, NotAvailable, first_line
from bn_deploy.onnxfile.stored import read
from bn_deploy.pipeline.evidence import load_dataset, origin, same
from bn_deploy.precision.emulate import emulated
from bn_deploy.precision.typed import TypedModel, digest, typed
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import CALIBRATION_IMAGES, TENSORRT_10, Precision, Stage, Track, silent, typed_stage
from bn_deploy.verify.evidence import EMULATED, Form, form
from bn_deploy.verify.tripwires import Asked, Trip


@dataclass(frozen=True)
class TypedFile:
    """A typed file, and the model in it."""

    path: Path
    model: TypedModel


def give_precision(
    run: RunFolder,
    precision: Precision,
    *,
    images: int = CALIBRATION_IMAGES,
    target: str = TENSORRT_10,
    dataset: Dataset | None = None,
    data_dir: Path | None = None,
    track: Track = silent,
) -> TypedFile:
    """Writes model.folded.PRECISION.onnx from model.folded.onnx.

    Args:
        run: where both are.
        precision: any but fp32.
        images: how many training images to measure on, evenly spread over the split.
        target: which TensorRT the file is for, of spec.TARGETS.
        dataset: the data that the checkpoint was trained on, if they are in memory already.
        data_dir: else, the folder that they are read from.
        track: follows the measurements.

    Raises:
        RunFolderError: there is no current model.folded.onnx.
        DataError: the training images cannot be had.
        InputError: there are not as many.
        ModelError, CheckFailed: the network cannot be given that precision.
        NotAvailable: ONNX Runtime, which measures, is not installed.
    """
    source = run.require(kinds.FOLDED)
    checkpoint = origin(run)
    dataset = same(dataset, checkpoint) if dataset else load_dataset(checkpoint, data_dir, track)
    total = len(dataset.train)
    if not 1 <= images <= total:
        raise InputError(
            f"{dataset.name} has {total:,} training images; calibrating on {images:,} is not possible"
        )
    chosen = calibration_images(dataset, images)
    made = typed(_whole(source.path), precision, chosen, target=target, track=track)
    kind = kinds.of_precision(kinds.FOLDED, precision)
    write_bytes(run.path(kind), made.proto.SerializeToString(deterministic=True))
    run.record(
        kind,
        made_from={kinds.FOLDED: source.sha256, f"dataset.{dataset.name}": dataset.digest},
        facts=made.facts(),
    )
    return TypedFile(run.path(kind), made)


def calibration_images(dataset: Dataset, count: int) -> Array:
    """As many training images (count, ...), evenly spread: always the same ones, of all classes."""
    return np.asarray(dataset.train.images[np.linspace(0, len(dataset.train) - 1, count).astype(int)])


@dataclass(frozen=True)
class TypedForms:
    """The typed files and engines of a run, running.

    Attributes:
        forms: those that run.
        engines: the runners of engines among them, by the name of the form.
        files: the ONNX file of each form, also of one that cannot be run here; an engine's is the one that it
            was built from.
        digests: SHA-256 of each file, by kind.
        asked: what each engine must compute in.
        unavailable: engines that cannot be run here, each with the reason.
        trips: files that were calibrated on other images than they say.
    """

    forms: tuple[Form, ...]
    engines: dict[str, Runner] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    trips: list[Trip] = field(default_factory=list)


def typed_forms(
    run: RunFolder,
    dataset: Dataset,
    stack: ExitStack,
    *,
    threads: int,
    require_engine: bool = False,
    running: RunOptions = AS_IT_IS,
) -> TypedForms:
    """Every typed file and its engine that the run folder holds, on `stack`.

    A file is run on the CPU as a float32 one that rounds as it would: ONNX Runtime would leave out some of
    the roundings and say nothing. What it is run as is of its own precision only in that sense.

    Raises:
        RunFolderError: a file is stale or not the recorded one.
        InputError: an engine brings code and is not trusted, or the library that it needs is not there.
        NotAvailable: ONNX Runtime is missing, or an engine cannot be run here and `require_engine` is set.
    """
    forms: list[Form] = []
    found = TypedForms(())
    for precision in kinds.TYPED:
        model, plan = (kinds.of_precision(kind, precision) for kind in (kinds.FOLDED, kinds.PLAN))
        if run.find(model) is None:
            continue
        source, name = run.require(model), typed_stage(Stage.ONNX, precision)
        found.digests[model], found.files[name] = source.sha256, source.path
        proto = _whole(source.path)
        if (seen := _calibrated_elsewhere(proto, dataset)) is not None:
            found.trips.append(Trip(name, "calibration", seen))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "emulated.onnx"
        write_bytes(path, emulated(proto).SerializeToString())
        runner = stack.enter_context(OrtRunner(path, threads=threads, optimize=False))
        as_run = form(Stage.ONNX, runner, precision.value)
        forms.append(replace(as_run, name=name, provider=f"{runner.provider}{EMULATED}"))
        if run.find(plan) is None:
            continue
        engine = typed_stage(Stage.ENGINE, precision)
        found.files[engine] = source.path
        try:
            built = run.require(plan)
            opened = stack.enter_context(backend("trt").open(built.path, threads=threads, running=running))
        except NotAvailable as error:
            if require_engine:
                raise
            found.unavailable[engine] = str(error)
            continue
        forms.append(replace(form(Stage.ENGINE, opened), name=engine))
        found.engines[engine] = opened
        found.digests[plan] = built.sha256
        found.asked[engine] = Asked(precision=precision.value)
    return replace(found, forms=tuple(forms))


def _calibrated_elsewhere(proto: onnx.ModelProto, dataset: Dataset) -> str | None:
    """What shows that a typed file was calibrated on others than training images of `dataset`, or None."""
    told = {entry.key: entry.value for entry in proto.metadata_props}
    count, recorded = told.get("bn_deploy.calibration_images", ""), told.get("bn_deploy.calibration_sha256")
    if not count.isdecimal() or not 1 <= int(count) <= len(dataset.train):
        return f"it says that it was calibrated on {count or 'no'} images, of {len(dataset.train):,}"
    own = digest(calibration_images(dataset, int(count)))
    if own == recorded:
        return None
    return (
        f"the {count} training images have the SHA-256 {own[:12]}; it was calibrated on {str(recorded)[:12]}"
    )


def _whole(path: Path) -> onnx.ModelProto:
    """An ONNX file with its weights in memory."""
    try:
        return ir.to_proto(read(path).model())
    except ValueError as error:
        raise ModelError(f"{path} is too large to be rewritten in memory: {first_line(error)}") from error
