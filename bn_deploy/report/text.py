"""Results as plain text. Each function returns a string; only the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.stats import LatencyResult
from bn_deploy.exporting.onnx_file import OnnxFile
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.report.layout import counted, milliseconds, table, wrapped
from bn_deploy.report.report import Report
from bn_deploy.report.verification import parity_text
from bn_deploy.train.loop import Training
from bn_deploy.version import version


def training_text(training: Training) -> str:
    """What a training did, as the book prints it, and both test accuracies."""
    last = training.epochs[-1]
    gain = (training.test_accuracy - training.test_accuracy_moving) * 100
    epochs = table(
        ["epoch", "loss", "train acc", "test acc"],
        [
            (str(n), f"{e.loss:.3f}", f"{e.train_accuracy:.4f}", f"{e.test_accuracy:.4f}")
            for n, e in enumerate(training.epochs, 1)
        ],
    )
    return f"""{epochs}

loss {last.loss:.3f}, train acc {last.train_accuracy:.3f}, test acc {last.test_accuracy:.3f}, \
{training.examples_per_s:,.0f} examples/s on {training.threads} threads
gamma of the first batch norm  {_vector(training.first_gamma)}
beta  of the first batch norm  {_vector(training.first_beta)}
test accuracy with the moving averages        {training.test_accuracy_moving:.4f}
test accuracy with statistics re-estimated    {training.test_accuracy:.4f}  ({gain:+.2f} points, \
over {training.statistics_images:,} training images)"""


def latency_text(record: LatencyRecord, unavailable: Mapping[str, str]) -> str:
    """Every row of a measurement, and what could not be measured."""
    rows = [
        (
            f"{r.backend} {r.model}",
            _how(r),
            str(r.batch),
            milliseconds(r.p50_s),
            milliseconds(r.p90_s),
            milliseconds(r.p99_s),
            f"{r.throughput_per_s:,.0f}",
            f"{len(r.samples_s):,}",
        )
        for r in record.results
    ]
    columns = ["backend, model", "what is timed", "batch", "p50 ms", "p90 ms", "p99 ms", "images/s", "calls"]
    return "\n".join(
        [
            table(columns, rows, left=2),
            "images/s is the batch divided by p50",
            *(wrapped(f"{name}: not measured: {reason}") for name, reason in unavailable.items()),
        ]
    )


def _how(result: LatencyResult) -> str:
    threads = [counted(result.threads, "thread")] if result.threads else []
    return ", ".join([result.scope, result.precision.value, result.device, *threads])


def export_text(native: OnnxFile, folded: OnnxFile | None, folds: FoldReport | None) -> str:
    """What an export wrote, and the outcome of each batch norm."""
    files = [file for file in (native, folded) if file is not None]
    lines = [
        wrapped(f"{file.path}: {', '.join(f'{n} {op}' for op, n in file.census.items())}") for file in files
    ]
    return "\n".join([*lines, str(folds)] if folds else lines)


def doctor_text(findings: Mapping[str, Any]) -> str:
    """What is here and what is missing."""
    env = findings["environment"]
    rows = [
        ("machine", f"{env['cpu_model']}, {env['usable_cores']} usable cores, {env['platform']}"),
        ("python", str(env["python"])),
        *((name, str(version or "not installed")) for name, version in env["versions"].items()),
        ("providers", ", ".join(findings["onnxruntime_providers"]) or "none"),
        ("TensorRT", findings["tensorrt"]),
        ("GPU", findings["gpu"]),
        *((f"backend {name}", reason or "ready") for name, reason in findings["backends"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def report_text(report: Report) -> str:
    """One screen that reads by itself."""
    origin = report.origin
    network = f"{origin['model']} with {origin['norm']} batch norm"
    parts = [f"bn-deploy {version()}: {network}, trained on {origin['dataset']}", f"files in {report.folder}"]
    if origin.get("dataset_notice"):
        parts.insert(0, wrapped(f"!! {origin['dataset_notice']}"))
    if report.training:
        t = report.training
        moving, final = (f"{t[key] * 100:.2f} %" for key in ("test_accuracy_moving", "test_accuracy"))
        parts.append(
            wrapped(
                f"test accuracy after training {moving} with moving averages, {final} with statistics "
                f"re-estimated; {t['examples_per_s']:,.0f} examples/s on {counted(t['threads'], 'thread')}"
            )
        )
    if report.parity:
        parts += ["", parity_text(report.parity)]
    parts += ["", _fold_text(report), "", _engine_line(report)]
    if report.latency:
        parts += ["", _latency_grid(report.latency)]
    missing = {name: reason for name, reason in report.unavailable.items() if name != "build"}
    parts += [wrapped(f"{name}: not measured: {reason}") for name, reason in missing.items()]
    return "\n".join(parts)


def _fold_text(report: Report) -> str:
    before, after = report.census["native"], report.census["folded"]
    head = f"batch norms {before.get('BatchNormalization', 0)} -> {after.get('BatchNormalization', 0)}: "
    folded = [
        f"{e['site']['batchnorm']} into {e['site']['producer']} ({e['rule']})" for e in report.folds["folded"]
    ]
    kept = [f"{e['site']['batchnorm']} kept: {e['reason']}" for e in report.folds["kept"]]
    operators = sorted({*before, *after})
    rows = [
        ("model.onnx", *(str(before.get(op, 0)) for op in operators)),
        ("model.folded.onnx", *(str(after.get(op, 0)) for op in operators)),
    ]
    return wrapped(head + ", ".join([*folded, *kept])) + "\n" + table(["operators", *operators], rows)


def _engine_line(report: Report) -> str:
    if report.engine is None:
        return wrapped(f"engine: not built: {report.unavailable.get('build', 'run `bn-deploy build`')}")
    return engine_text(report.engine, report.engine["file"])


def engine_text(facts: Mapping[str, Any], name: str) -> str:
    """What matters of a plan, from its side-car."""
    batch = ":".join(str(size) for size in facts["batch"])
    tf32 = " (TF32 allowed)" if "TF32" in facts["settings"].get("flags", ()) else ""
    return wrapped(
        f"engine {name}: {facts['plan_bytes'] / 1e3:,.1f} kB, {facts['precision']}{tf32}, "
        f"{facts['tensorrt']} {facts['tensorrt_version']}, batch {batch}, for GPUs of compute capability "
        f"{', '.join(facts['compute_capabilities'])}"
    )


def _latency_grid(record: LatencyRecord) -> str:
    """Median latency, a row per backend and model, a column per batch size; throughput at the largest."""
    batches = sorted({r.batch for r in record.results})
    by_row: dict[tuple[str, str], dict[int, LatencyResult]] = {}
    for result in record.results:
        by_row.setdefault((f"{result.backend} {result.model}", result.scope), {})[result.batch] = result
    rows = [
        (
            *key,
            *(milliseconds(cells[b].p50_s if b in cells else None) for b in batches),
            f"{cells[batches[-1]].throughput_per_s:,.0f}" if batches[-1] in cells else "n/a",
        )
        for key, cells in by_row.items()
    ]
    columns = ["median latency", "scope", *(f"batch {b}, ms" for b in batches), f"images/s at {batches[-1]}"]
    return f"{table(columns, rows, left=2)}\n{_measured_on(record)}"


def _measured_on(record: LatencyRecord) -> str:
    """The machine and its load, in words; times from a machine that was busy with something else say so."""
    env = record.environment
    threads = sorted({counted(r.threads, "thread") for r in record.results if r.threads})
    load, cores = env["load_average"], env["usable_cores"]
    versions = (f"{name} {v}" for name, v in env["versions"].items() if v and name != "bn-deploy")
    busy = " (BUSY: expect slower and noisier times than this machine can do)" if _busy(load, cores) else ""
    return wrapped(
        f"on {env['cpu_model']}, {counted(cores, 'core') if cores else 'unknown cores'}, "
        f"{' and '.join(threads) or 'GPU'} a backend, load average "
        f"{f'{load[0]:.1f}' if load else 'unknown'}{busy}; {', '.join(versions)}"
    )


def _busy(load: Sequence[float] | None, cores: int | None) -> bool:
    """Whether more wanted to run than there are cores, in the minute before."""
    return bool(load and cores and load[0] > cores)


def _vector(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
