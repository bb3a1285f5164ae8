"""`bn-deploy export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bn_deploy.cli import console, options, options_precision
from bn_deploy.spec import Precision, announced


@click.command("export")
@options.run
@options.checkpoint
@options.fold_bn
@options.check
@options.strict
@options_precision.precision
@options_precision.calibration_images
@options_precision.for_tensorrt
@options.data_dir
@options.common
def command(
    run_dir: Path,
    checkpoint: Path | None,
    *,
    fold_bn: bool,
    check: bool,
    strict: bool,
    precision: str,
    calibration_images: int,
    for_tensorrt: str,
    data_dir: Path | None,
    as_json: bool,
) -> int:
    """Convert to standard operators, fold batch norms, and write ONNX.

    Writes model.onnx and, with --fold-bn, model.folded.onnx, after both were run on random and on boundary
    inputs and compared in float64. With --precision, also the typed file that an engine of that precision is
    built from: which operators stay wider is measured on training images, and said.
    """
    from bn_deploy.pipeline.make import export
    from bn_deploy.report.precision import precision_text
    from bn_deploy.report.text import export_text
    from bn_deploy.run_folder import RunFolder

    if strict and not fold_bn:
        raise click.UsageError("--strict asks that every batch norm is folded; give --fold-bn too")
    wanted = Precision(precision)
    if wanted is not Precision.FP32 and not fold_bn:
        raise click.UsageError("--precision is that of the folded network; give --fold-bn too")
    run = RunFolder(run_dir)
    exported = announced(
        console.track,
        "exporting",
        lambda: export(
            run,
            checkpoint=checkpoint,
            fold_bn=fold_bn,
            check=check,
            precision=wanted,
            calibration_images=calibration_images,
            target=for_tensorrt,
            data_dir=data_dir,
        ),
    )
    parity, typed = exported.parity, exported.typed
    value = {
        "native": {"path": str(exported.native.path), "census": exported.native.census},
        "folded": {"path": str(exported.folded.path), "census": exported.folded.census}
        if exported.folded
        else None,
        "folds": exported.report.to_json() if exported.report else None,
        "parity": asdict(parity) if parity else None,
        "typed": {"path": str(typed.path), **typed.model.facts()} if typed else None,
    }
    text = export_text(exported.native, exported.folded, exported.report)
    checked = f"\n{parity or 'not checked'}" if exported.folded else ""
    also = f"\n{precision_text(typed.model.facts(), str(typed.path))}" if typed else ""
    console.show(f"{text}{checked}{also}", value, as_json=as_json)
    return 1 if strict and exported.report and exported.report.kept else 0
