"""`bn-deploy fold`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from bn_deploy.cli import console, options
from bn_deploy.spec import announced


@click.command("fold")
@options.src
@options.dst
@options.check
@options.strict
@options.common
def command(src: Path, dst: Path, check: bool, strict: bool, as_json: bool) -> int:
    """Fold every batch norm of an ONNX file that can be folded, whoever wrote it.

    Writes DST after both were run on random and on boundary inputs and compared in float64.
    """
    from bn_deploy.pipeline.file import fold_file

    folded = announced(console.track, "folding", lambda: fold_file(src, dst, check=check))
    parity = folded.parity
    value = {"folds": folded.report.to_json(), "parity": asdict(parity) if parity else None}
    checked = f"\nchecked on {parity.probes} inputs: rms {parity.rms:.2e}" if parity else "\nnot checked"
    console.show(f"{folded.report}{checked}", value, as_json=as_json)
    return 1 if strict and folded.report.kept else 0
