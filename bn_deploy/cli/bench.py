"""`bn-deploy bench`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bn_deploy.backends import BACKENDS
from bn_deploy.cli import bench_options, console, options, options_engine
from bn_deploy.spec import Precision

if TYPE_CHECKING:
    from bn_deploy.backends.options import RunOptions
    from bn_deploy.bench.options import MeasureOptions
    from bn_deploy.bench.record import LatencyRecord
    from bn_deploy.pipeline.timing import Benched

INTERRUPTED = 130


@click.command("bench")
@bench_options.onnx_models
@options.run
@options.data_dir
@options.inputs
@bench_options.backends
@bench_options.forms
@bench_options.batch_sizes
@bench_options.scope
@bench_options.regime
@bench_options.scenario
@bench_options.rate
@bench_options.budget
@bench_options.processes
@bench_options.quick
@bench_options.bench_threads
@bench_options.bench_precision
@options_engine.running
@options.turns_seed
@bench_options.against
@bench_options.max_slowdown
@bench_options.anyway
@bench_options.unverified
@options.common
def command(
    models: tuple[Path, ...],
    run_dir: Path,
    data_dir: Path | None,
    inputs: Path | None,
    backends: tuple[str, ...],
    forms: tuple[str, ...],
    threads: int | None,
    precision: str | None,
    running: RunOptions,
    against: Path | None,
    max_slowdown: float,
    anyway: bool,
    unverified: bool,
    as_json: bool,
    **measuring: Any,
) -> int:
    """Time the network in each backend, before and after folding, and say what may be concluded.

    Fresh processes, in each of which the candidates take turns in short blocks; writes latency.json with
    every sample, and latency.png. With models, A.onnx and others, compares those files instead and writes
    nothing. Exit code 1: slower than --against allows, or a candidate does not compute the same; 4: that
    cannot be decided.
    """
    from bn_deploy.bench.gate import against as judged
    from bn_deploy.bench.record import LatencyRecord
    from bn_deploy.pipeline.benching import bench, bench_files
    from bn_deploy.report.latency import gate_text, latency_text
    from bn_deploy.report.latency_json import latency_json
    from bn_deploy.run_folder import RunFolder

    before = LatencyRecord.read(against) if against else None
    chosen = _measured_as(before, measuring) if before else _options(measuring)
    how: Mapping[str, Any] = {
        "backends": backends or (("ort",) if forms else ()),
        "threads": _threads_of(before) if before and threads is None else threads,
        "unverified": unverified,
        "running": _run_as(before, running) if before else running,
        "precision": _computed_in(before, precision),
        "track": console.track,
    }
    benched: Benched
    if models:
        if forms:
            raise click.UsageError("--compare names forms of the run folder's network, not files")
        benched = bench_files(models, chosen, inputs=inputs, **how)
    else:
        if inputs:
            raise click.UsageError("--inputs goes with models; a run folder is timed on its own test set")
        benched = bench(
            RunFolder(run_dir), chosen, forms=forms, data_dir=data_dir, keep=before is None, **how
        )
    text = latency_text(benched.record, benched.unavailable, benched.refused)
    value = {
        **latency_json(benched.record),
        "unavailable": benched.unavailable,
        "refused": benched.refused,
    }
    code = benched.exit_code
    if before:
        gate = judged(before, benched.record, max_slowdown, anyway=anyway)
        text, value = f"{text}\n\n{gate_text(gate)}", {**value, "gate": gate.to_json()}
        code = code or gate.exit_code
    console.show(text, value, as_json=as_json)
    return INTERRUPTED if benched.record.interrupted else code


def _options(asked: Mapping[str, Any]) -> MeasureOptions:
    """What the options say; what they leave open depends on the scenario, and on whether to be quick."""
    from bn_deploy.bench.options import QUICK, SWEEP, MeasureOptions

    scenario = asked["scenario"] or "single"
    batches = asked["batch"] or {"server": (1,), "offline": SWEEP}.get(scenario)
    open_ones = {
        "scenario": scenario,
        "batch_sizes": batches,
        "scopes": (asked["scope"],) if asked["scope"] else None,
        "regime": asked["regime"],
        "rate_per_s": asked["rate"],
        "processes": asked["processes"],
        "budget_s": asked["budget"],
    }
    given: Mapping[str, Any] = {name: value for name, value in open_ones.items() if value is not None}
    base = QUICK if asked["quick"] else MeasureOptions()
    return replace(base, seed=asked["seed"], **given)


def _measured_as(before: LatencyRecord, asked: Mapping[str, Any]) -> MeasureOptions:
    """The options of an earlier measurement; only how long and in which order may be chosen anew."""
    for name in ("batch", "scope", "regime", "scenario", "rate"):
        if asked[name] is not None:
            raise click.UsageError(f"--against measures as that file was measured; --{name} is not free")
    if asked["quick"]:
        raise click.UsageError("--quick decides nothing, so it cannot be compared with --against")
    given = {"processes": asked["processes"], "budget_s": asked["budget"]}
    kept = {name: value for name, value in given.items() if value is not None}
    return replace(before.options, seed=asked["seed"], **kept)


def _run_as(before: LatencyRecord, asked: RunOptions) -> RunOptions:
    """What an earlier measurement asked of engines; whose code to trust is asked each time."""
    if asked.cuda_graph:
        raise click.UsageError("--against measures as that file was measured; --cuda-graph is not free")
    return replace(asked, cuda_graph=any(row.requested["cuda_graph"] for row in before.results))


def _computed_in(before: LatencyRecord | None, asked: str | None) -> Precision | None:
    """What the backends that can be asked for a precision are to compute in."""
    if before is None:
        return Precision(asked) if asked else None
    if asked:
        raise click.UsageError("--against measures as that file was measured; --precision is not free")
    able = {row.name for row in BACKENDS if row.precisions}
    return next((row.precision for row in before.results if row.backend in able), None)


def _threads_of(before: LatencyRecord) -> Mapping[str, int]:
    """The threads that each backend was given."""
    return {row.backend: row.threads for row in before.results if row.threads is not None}
