"""`bn-deploy export`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options
from bn_deploy.spec import announced


@click.command("export")
@options.run
@options.checkpoint
@options.fold_bn
@options.strict
@options.common
def command(run_dir: Path, checkpoint: Path | None, fold_bn: bool, strict: bool, as_json: bool) -> int:
    """Convert to standard operators, fold batch norms, and write ONNX.

    Writes model.onnx and, with --fold-bn, model.folded.onnx.
    """
    from bn_deploy.pipeline.make import export
    from bn_deploy.report.text import export_text
    from bn_deploy.run_folder import RunFolder

    if strict and not fold_bn:
        raise click.UsageError("--strict asks that every batch norm is folded; give --fold-bn too")
    run = RunFolder(run_dir)
    exported = announced(
        console.track, "exporting", lambda: export(run, checkpoint=checkpoint, fold_bn=fold_bn)
    )
    value = {
        "native": {"path": str(exported.native.path), "census": exported.native.census},
        "folded": {"path": str(exported.folded.path), "census": exported.folded.census}
        if exported.folded
        else None,
        "folds": exported.report.to_json() if exported.report else None,
    }
    console.show(export_text(exported.native, exported.folded, exported.report), value, as_json=as_json)
    return 1 if strict and exported.report and exported.report.kept else 0
