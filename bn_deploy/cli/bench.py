"""`bn-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bn_deploy.cli import console, options

if TYPE_CHECKING:
    from bn_deploy.bench.stats import Scope


@click.command("bench")
@options.run
@options.data_dir
@options.backends
@options.batch_sizes
@options.scope
@options.budget
@options.threads
@options.turns_seed
@options.common
def command(
    run_dir: Path,
    data_dir: Path | None,
    backends: tuple[str, ...],
    batch: tuple[int, ...],
    scope: Scope,
    budget: float,
    threads: int,
    seed: int,
    as_json: bool,
) -> None:
    """Time the network in each backend, before and after folding.

    Writes latency.json with every sample. Candidates take turns, so that a busy machine slows all alike.
    """
    from bn_deploy.bench.measure import MeasureOptions
    from bn_deploy.pipeline.evidence import bench
    from bn_deploy.report.report import latency_rows
    from bn_deploy.report.text import latency_text
    from bn_deploy.run_folder import RunFolder

    chosen = MeasureOptions(batch_sizes=batch, scopes=(scope,), budget_s=budget, seed=seed)
    benched = bench(
        RunFolder(run_dir), chosen, backends=backends, threads=threads, data_dir=data_dir, track=console.track
    )
    value = {
        "results": latency_rows(benched.record),
        "environment": dict(benched.record.environment),
        "unavailable": benched.unavailable,
    }
    console.show(latency_text(benched.record, benched.unavailable), value, as_json=as_json)
