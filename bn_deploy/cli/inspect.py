"""`bn-deploy inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options


@click.command("inspect")
@options.file
@options.common
def command(file: Path, as_json: bool) -> None:
    """Look into a file: a checkpoint (.safetensors), an ONNX file, or a plan with its side-car.

    Shows layers or operators, number formats, shapes, parameters, multiply-accumulates for a batch of one,
    and where the file comes from. A plan's layers, with their kernels, show where a GPU can load it.
    """
    from bn_deploy.inspecting.inspection import inspect_file
    from bn_deploy.report.inspection import inspection_text

    facts = inspect_file(file).to_json()
    console.show(inspection_text(facts), facts, as_json=as_json)
