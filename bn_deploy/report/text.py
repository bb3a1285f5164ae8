"""Results as plain text. Each function returns a string; only the command line prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bn_deploy.exporting.onnx_file import OnnxFile
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.report.engine import engine_text
from bn_deploy.report.latency import latency_grid
from bn_deploy.report.layout import counted, table, wrapped
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
        *(
            (f"  {name.replace('_', ' ')}", reason or "yes")
            for name, reason in findings["tensorrt_offers"].items()
        ),
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
        parts += ["", latency_grid(report.latency)]
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


def _vector(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
