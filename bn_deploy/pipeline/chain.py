"""The whole chain as one function, read top to bottom, and the report of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json, write_json
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.data.dataset import Dataset
from bn_deploy.engine.build import BuildOptions
from bn_deploy.errors import CheckFailed, NotAvailable, RunFolderError
from bn_deploy.exporting.onnx_file import inspect
from bn_deploy.pipeline.benching import bench
from bn_deploy.pipeline.make import build, export, read_training, train
from bn_deploy.pipeline.precision import give_precision
from bn_deploy.pipeline.verification import verify
from bn_deploy.report.report import Report
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import TENSORRT_10, Precision, Track, announced, silent
from bn_deploy.train.recipe import Recipe
from bn_deploy.verify.parity import Parity


def everything(
    run: RunFolder,
    dataset: Dataset,
    recipe: Recipe,
    *,
    model_name: str = "lenet",
    norm: str = "custom",
    train_threads: int | None = None,
    precisions: Sequence[Precision] = (),
    target: str = TENSORRT_10,
    build_options: BuildOptions | None = None,
    measure_options: MeasureOptions | None = None,
    threads: int = 1,
    track: Track = silent,
) -> Report:
    """Trains, exports, folds, builds, verifies and times a network; writes report.json beside the rest.

    What this machine lacks for the engine is no error: the report says what was left out, and why.

    Args:
        run: where everything goes.
        dataset: what to train and to judge on.
        recipe: how to train.
        model_name: the row of MODELS.
        norm: the row of NORMS.
        train_threads: torch's CPU threads while it trains; None leaves them as they are.
        precisions: those besides fp32 that typed files and engines are made in, too.
        target: what typed files are for, see `export`.
        build_options: how to build engines.
        measure_options: how to time.
        threads: CPU threads of the runtimes.
        track: follows all of it.

    Raises:
        BnDeployError: a stage failed; files of the stages before it are in the folder.
    """
    missing: dict[str, str] = {}
    train(run, dataset, recipe, model_name=model_name, norm=norm, threads=train_threads, track=track)
    announced(track, "folding and exporting", lambda: export(run, checkpoint=None, fold_bn=True))
    for typed in kinds.TYPED:
        for kind in (kinds.FOLDED, kinds.PLAN, kinds.SIDECAR):
            run.forget(kinds.of_precision(kind, typed))  # of an earlier run
        if typed in precisions:
            give_precision(run, typed, target=target, dataset=dataset, track=track)
    for precision in Precision:
        if precision is Precision.FP32 or precision in precisions:
            try:
                build(run, replace(build_options or BuildOptions(), precision=precision), track=track)
            except NotAvailable as error:
                missing["build"] = str(error)
                for kind in (kinds.PLAN, kinds.SIDECAR):
                    run.forget(kinds.of_precision(kind, precision))  # it must not be taken for this run's
    verify(run, dataset=dataset, threads=threads, track=track)
    try:
        bench(run, measure_options or MeasureOptions(), threads=threads, dataset=dataset, track=track)
    except CheckFailed as error:  # the report says what failed; its speed would say nothing
        missing["bench"] = str(error)
        for kind in (kinds.LATENCY, kinds.LATENCY_PLOT):
            run.forget(kind)
    report = collect(run, missing)
    write_json(run.path(kinds.REPORT), report.to_json())
    run.record(kinds.REPORT, made_from={kinds.FOLDED: run.require(kinds.FOLDED).sha256})
    return report


def collect(run: RunFolder, missing: dict[str, str] | None = None) -> Report:
    """What the run folder's files say, as one report. What was never made is left out.

    Raises:
        RunFolderError: model.folded.onnx is missing, or a file is stale or not the recorded one.
    """
    folded = run.require(kinds.FOLDED)
    native = run.require(kinds.NATIVE)
    training = run.require(kinds.TRAINING) if kinds.CHECKPOINT in folded.made_from else None
    parity = run.require(kinds.PARITY) if run.find(kinds.PARITY) else None
    latency = run.require(kinds.LATENCY) if run.find(kinds.LATENCY) else None
    plan = run.require(kinds.PLAN) if run.find(kinds.PLAN) else None
    graph = inspect(folded.path)
    try:
        return Report(
            folder=run.root.as_posix(),
            origin={key.removeprefix("bn_deploy."): value for key, value in graph.metadata.items()},
            training=read_training(training.path) if training else None,
            census={"native": inspect(native.path).census, "folded": graph.census},
            folds=dict(folded.facts["folds"]),
            engine={**plan.facts, "file": plan.path.name} if plan else None,
            parity=Parity.from_json(read_json(parity.path)) if parity else None,
            latency=LatencyRecord.read(latency.path) if latency else None,
            unavailable={**(dict(latency.facts["unavailable"]) if latency else {}), **(missing or {})},
            digests={a.kind: a.sha256 for a in (folded, native, plan) if a},
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunFolderError(f"{run.root / 'manifest.json'} is damaged: {error!r}") from error
