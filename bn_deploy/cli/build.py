"""`bn-deploy build`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bn_deploy.cli import console, options, options_engine
from bn_deploy.spec import BatchRange, Precision

if TYPE_CHECKING:
    from bn_deploy.engine.options import BuildOptions
    from bn_deploy.run_folder import RunFolder


@click.command("build")
@options.run
@options_engine.precision
@options_engine.batch_ranges
@options_engine.workspace
@options_engine.optimization_level
@options_engine.tf32
@options_engine.targets
@options_engine.version_compatible
@options_engine.exclude_lean_runtime
@options_engine.hardware_compatible
@options_engine.timing_cache
@options_engine.detailed
@options_engine.dry_run
@options.common
def command(
    run_dir: Path,
    precision: str,
    batch: tuple[BatchRange, ...],
    workspace_mib: int | None,
    optimization_level: int | None,
    tf32: bool,
    targets: tuple[str, ...] | None,
    version_compatible: bool,
    exclude_lean_runtime: bool,
    hardware_compatible: str | None,
    timing_cache: bool | None,
    detailed: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Build a TensorRT engine from model.folded.onnx.

    Writes model.plan and its side-car model.plan.json; with --precision, model.PRECISION.plan from the file
    that `bn-deploy export --fold-bn --precision` made. TensorRT-RTX needs no GPU for this.
    """
    from bn_deploy.engine.build import BuildOptions
    from bn_deploy.pipeline.make import build
    from bn_deploy.report.engine import engine_text, missing_text
    from bn_deploy.run_folder import RunFolder

    run = RunFolder(run_dir)
    if exclude_lean_runtime and not version_compatible:
        raise click.UsageError("--exclude-lean-runtime goes with --version-compatible")
    chosen = BuildOptions(
        batch=batch or None,
        precision=Precision(precision),
        workspace_bytes=None if workspace_mib is None else workspace_mib << 20,
        tf32=tf32,
        optimization_level=optimization_level,
        compute_capabilities=targets,
        version_compatible=version_compatible,
        exclude_lean_runtime=exclude_lean_runtime,
        hardware_compatible=hardware_compatible,
        timing_cache=timing_cache,
        detailed=detailed,
    )
    if dry_run:
        return _dry_run(run, chosen, as_json=as_json)
    result = build(run, chosen, track=console.track)
    for warning in result.warnings:
        console.notice(warning)
    about = result.sidecar.to_json()
    text = "\n".join(filter(None, (engine_text(about, result.plan_path.name), missing_text(about))))
    console.show(text, about, as_json=as_json)
    return 0


def _dry_run(run: RunFolder, chosen: BuildOptions, *, as_json: bool) -> int:
    """Shows what TensorRT cannot import of the file that would be built from."""
    from bn_deploy.pipeline.make import try_parsing
    from bn_deploy.report.engine import dry_run_text

    found = try_parsing(run, chosen)
    facts = found.to_json()
    console.show(dry_run_text(facts), facts, as_json=as_json)
    return found.exit_code
