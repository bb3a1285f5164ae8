"""`bn-deploy build`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options
from bn_deploy.spec import BatchRange, announced


@click.command("build")
@options.run
@options.batch_range
@options.workspace
@options.optimization_level
@options.tf32
@options.common
def command(
    run_dir: Path,
    batch: BatchRange | None,
    workspace_mib: int | None,
    optimization_level: int | None,
    tf32: bool,
    as_json: bool,
) -> None:
    """Build a TensorRT engine from model.folded.onnx.

    Writes model.plan and its side-car model.plan.json. TensorRT-RTX needs no GPU for this.
    """
    from bn_deploy.engine.build import BuildOptions
    from bn_deploy.pipeline.make import build
    from bn_deploy.report.text import engine_text
    from bn_deploy.run_folder import RunFolder

    chosen = BuildOptions(
        batch=batch,
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        tf32=tf32,
        optimization_level=optimization_level,
    )
    run = RunFolder(run_dir)
    result = announced(console.track, "building the engine", lambda: build(run, chosen))
    for warning in result.warnings:
        console.notice(warning)
    about = result.sidecar.to_json()
    console.show(engine_text(about, result.plan_path.name), about, as_json=as_json)
