"""`bn-deploy export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bn_deploy.cli import console, options
from bn_deploy.spec import announced


@click.command("export")
@options.run
@options.checkpoint
@options.fold_bn
@options.check
@options.strict
@options.common
def command(
    run_dir: Path, checkpoint: Path | None, *, fold_bn: bool, check: bool, strict: bool, as_json: bool
) -> int:
    """Convert to standard operators, fold batch norms, and write ONNX.

    Writes model.onnx and, with --fold-bn, model.folded.onnx, after both were run on random and on boundary
    inputs and compared in float64.
    """
    from bn_deploy.pipeline.make import export
    from bn_deploy.report.text import export_text
    from bn_deploy.run_folder import RunFolder

    if strict and not fold_bn:
        raise click.UsageError("--strict asks that every batch norm is folded; give --fold-bn too")
    run = RunFolder(run_dir)
    exported = announced(
        console.track,
        "exporting",
        lambda: export(run, checkpoint=checkpoint, fold_bn=fold_bn, check=check),
    )
    parity = exported.parity
    value = {
        "native": {"path": str(exported.native.path), "census": exported.native.census},
        "folded": {"path": str(exported.folded.path), "census": exported.folded.census}
        if exported.folded
        else None,
        "folds": exported.report.to_json() if exported.report else None,
        "parity": asdict(parity) if parity else None,
    }
    text = export_text(exported.native, exported.folded, exported.report)
    checked = f"\n{parity or 'not checked'}" if exported.folded else ""
    console.show(f"{text}{checked}", value, as_json=as_json)
    return 1 if strict and exported.report and exported.report.kept else 0
