"""Verifies the files of a run: every form of the network over the test set, with proofs. One command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import onnx

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import write_json
from bn_deploy.backends import backend
from bn_deploy.backends.base import Runner
from bn_deploy.backends.options import AS_IT_IS, RunOptions
from bn_deploy.bench.environment import environment
from bn_deploy.data.dataset import Dataset
from bn_deploy.errors import ModelError, NotAvailable
from bn_deploy.pipeline.evidence import load_dataset, origin, plan, same, with_graphs
from bn_deploy.pipeline.forms import Forms, forms_of
from bn_deploy.pipeline.localising import localise as look
from bn_deploy.pipeline.precision import typed_forms
from bn_deploy.report.plots import plot_layers
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Stage, Track, silent
from bn_deploy.train.checkpoint import Checkpoint
from bn_deploy.verify.certificate import FIRST_ORDER, Certifier
from bn_deploy.verify.certify import NetworkCertifier
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Form, Reference, form
from bn_deploy.verify.lint import batch_statistics
from bn_deploy.verify.parity import Limits, Parity
from bn_deploy.verify.rerun import drawn, in_class, in_float64
from bn_deploy.verify.tolerance import number_class
from bn_deploy.verify.tripwires import Asked, Trip, another_accuracy

_ASKED = {
    **dict.fromkeys(("trained", "converted", "folded"), Asked("eager", "fp32")),
    **dict.fromkeys(("native", "onnx"), Asked("CPUExecutionProvider", "fp32")),
}
_COUNTED = 1000
"""Over how many images the accuracy is compared with the recorded one before anything else is."""


def verify(
    run: RunFolder,
    *,
    dataset: Dataset | None = None,
    data_dir: Path | None = None,
    require_engine: bool = False,
    threads: int = 1,
    limits: Limits | None = None,
    bound: str = FIRST_ORDER,
    localise: bool = False,
    running: RunOptions = AS_IT_IS,
    track: Track = silent,
) -> Parity:
    """Compares trained, converted, native, folded, ONNX and engine over the test set; writes parity.json.

    So are the typed files and engines of other precisions in the folder, each in its class of numbers.

    Args:
        run: where the models are.
        dataset: the data that the checkpoint was trained on, if they are in memory already.
        data_dir: else, the folder that they are read from.
        require_engine: whether an engine that cannot be run is an error.
        threads: CPU threads of each backend that has them.
        limits: what the user asks for on top of the gate.
        bound: FIRST_ORDER, or STRICT for proofs that neglect nothing.
        localise: also compare layer by layer.
        running: what else is asked of engines.
        track: follows the comparison.

    Raises:
        RunFolderError: a file is missing or stale.
        InputError: an engine brings code and is not trusted, or the library that it needs is not there.
        NotAvailable: ONNX Runtime is missing, or the engine cannot be run here and `require_engine` is set.
    """
    checkpoint = origin(run)
    run.prepare()  # a folder that cannot be written is found before the work
    dataset = same(dataset, checkpoint) if dataset else load_dataset(checkpoint, data_dir, track)
    forms = forms_of(checkpoint)
    native, folded = run.require(kinds.NATIVE), run.require(kinds.FOLDED)
    digests = {**folded.made_from, kinds.NATIVE: native.sha256, kinds.FOLDED: folded.sha256}
    unavailable: dict[str, str] = {}
    with ExitStack() as stack:

        def opened(stage: Stage, name: str, source: object) -> Form:
            return form(stage, stack.enter_context(backend(name).open(source, threads=threads)))

        engines: dict[str, Runner] = {}
        forms_run = [
            opened(Stage.TRAINED, "torch", forms.bounded(forms.trained)),
            opened(Stage.CONVERTED, "torch", forms.bounded(forms.converted)),
            opened(Stage.NATIVE, "ort", native.path),
            opened(Stage.FOLDED, "torch", forms.bounded(forms.folded)),
            opened(Stage.ONNX, "ort", folded.path),
        ]
        try:
            path = plan(run)
            built = run.require(kinds.PLAN)
            engine = stack.enter_context(backend("trt").open(path, threads=threads, running=running))
            forms_run.append(form(Stage.ENGINE, engine, numbers_of(built.facts)))
            engines[Stage.ENGINE.value] = engine
            digests[kinds.PLAN] = built.sha256
        except NotAvailable as error:
            if require_engine:
                raise
            unavailable[Stage.ENGINE.value] = str(error)
        typed = typed_forms(
            run, dataset, stack, threads=threads, require_engine=require_engine, running=running
        )
        forms_run += typed.forms
        engines |= typed.engines
        digests |= typed.digests
        unavailable |= typed.unavailable
        reference = in_float64(forms.trained)
        evidence = _evidence(forms, forms_run, bound)
        files = {Stage.NATIVE: native.path, Stage.ONNX: folded.path}
        parity = compare(
            forms_run,
            reference,
            dataset.test.images,
            dataset.test.labels,
            evidence=replace(
                evidence,
                asked={**_ASKED, **typed.asked},
                trips=[*_lint(files), *typed.trips, *_accuracy(checkpoint, reference, dataset)],
            ),
            unavailable=unavailable,
            digests=digests,
            dataset=dataset.name,
            track=track,
        )
        parity = with_graphs(parity, engines)
    parity = replace(parity, environment=environment(), limits=limits or Limits())
    if localise:
        sources = {stage.value: path for stage, path in files.items()}
        sources |= {Stage.ENGINE.value: folded.path, **typed.files}
        images = dataset.test.images
        parity = replace(parity, layers=look(forms, parity, images, sources, threads=threads, track=track))
    write_json(run.path(kinds.PARITY), parity.to_json())
    run.record(kinds.PARITY, made_from=digests)
    if parity.layers:
        plot_layers(parity.layers, run.path(kinds.PARITY_PLOT))
        run.record(kinds.PARITY_PLOT, made_from=digests)
    return parity


def numbers_of(facts: Mapping[str, object]) -> str | None:
    """The class of numbers of an engine that may cut operands to TF32: its precision says fp32."""
    settings = facts.get("settings")
    flags = settings.get("flags", ()) if isinstance(settings, dict) else ()
    return "tf32" if "TF32" in flags and facts.get("precision") == "fp32" else None


def _evidence(forms: Forms, running: Sequence[Form], bound: str) -> Evidence:
    """What sharpens the verdict: drawn runs, runs in the engine's class of numbers, certifiers."""
    shape = forms.row.inputs[0].bind(1)[1:]
    classes = {one.name: number_class(one.precision) for one in running}
    own = classes[Stage.TRAINED.value]
    undrawn = ""
    try:
        draws = {
            numbers.name: drawn(forms.trained, numbers, shape)
            for numbers in {*classes.values()}
            if not numbers.fixed_steps  # what is drawn is relative to each number
        }
    except ModelError as error:
        draws, undrawn = {}, str(error)
    certifiers: dict[str, Certifier] = {}
    uncertified: dict[str, str] = {}
    for stages, network in (
        ((Stage.TRAINED,), forms.trained),
        ((Stage.CONVERTED, Stage.NATIVE), forms.converted),
        ((Stage.FOLDED, Stage.ONNX, Stage.ENGINE), forms.folded),
    ):
        able = [stage.value for stage in stages if classes.get(stage.value) == own and own.certifiable]
        try:
            certifiers |= dict.fromkeys(able, NetworkCertifier(network, shape, own, bound))
        except ModelError as error:
            uncertified |= dict.fromkeys(able, str(error))
        uncertified |= {
            stage.value: f"worst-case bounds say nothing in {classes[stage.value].name}"
            for stage in stages
            if stage.value in classes and stage.value not in able
        }
    uncertified |= {
        name: f"worst-case bounds say nothing in {numbers.name}"
        for name, numbers in classes.items()
        if not numbers.certifiable
    }
    return Evidence(
        draws=draws,
        undrawn=undrawn,
        baselines={n.name: in_class(forms.trained, n, shape) for n in {*classes.values()} - {own}},
        certifiers=certifiers,
        method=bound,
        uncertified=uncertified,
    )


def _lint(files: Mapping[Stage, Path]) -> list[Trip]:
    """What the graphs of ONNX files show of batch statistics."""
    return [
        Trip(stage.value, "batch statistics", seen)
        for stage, path in files.items()
        for seen in batch_statistics(onnx.load(path, load_external_data=False))
    ]


def _accuracy(checkpoint: Checkpoint, reference: Reference, dataset: Dataset) -> list[Trip]:
    """Whether the images are what the network was trained for."""
    recorded = checkpoint.metrics.get("test_accuracy")
    if not isinstance(recorded, float):
        return []
    every = max(1, len(dataset.test) // _COUNTED)
    images, labels = dataset.test.images[::every], dataset.test.labels[::every]
    right = int((reference(images).argmax(axis=1) == labels).sum())
    seen = another_accuracy(recorded, labels, right, len(dataset.test))
    return [] if seen is None else [Trip(Stage.TRAINED.value, "accuracy", seen)]
