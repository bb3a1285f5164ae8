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
@options.pad_exact
@options.merge_branches
@options.check
@options.strict
@options.common
def command(
    src: Path,
    dst: Path,
    *,
    pad_exact: bool,
    merge_branches: bool,
    check: bool,
    strict: bool,
    as_json: bool,
) -> int:
    """Fold every batch norm of an ONNX file that can be folded, whoever wrote it.

    Writes DST after both were run on random and on boundary inputs and compared in float64. If SRC keeps
    weights in other files, or one file cannot hold the result (2 GB), they go to DST.onnx.data.
    """
    from bn_deploy.pipeline.file import fold_file

    folded = announced(
        console.track,
        "folding",
        lambda: fold_file(src, dst, check=check, pad_exact=pad_exact, merge_branches=merge_branches),
    )
    parity = folded.parity
    value = {"folds": folded.report.to_json(), "parity": asdict(parity) if parity else None}
    console.show(f"{folded.report}\n{parity or 'not checked'}", value, as_json=as_json)
    return 1 if strict and folded.report.kept else 0
