"""`bn-deploy run`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options


@click.command("run")
@options.run
@options.data_dir
@options.training
@options.bench_batch_sizes
@options.budget
@options.threads
@options.common
def command(
    run_dir: Path,
    data_dir: Path | None,
    dataset: str,
    model: str,
    norm: str,
    epochs: int,
    batch: int,
    lr: float,
    seed: int,
    statistics_images: int,
    bench_batch: tuple[int, ...],
    budget: float,
    threads: int,
    as_json: bool,
) -> int:
    """Train, export, fold, build, verify and bench in one go; print the report.

    Writes everything that the single commands write, and report.json.
    """
    from bn_deploy import data
    from bn_deploy.bench.measure import MeasureOptions
    from bn_deploy.pipeline.chain import everything
    from bn_deploy.report.text import report_text
    from bn_deploy.run_folder import RunFolder
    from bn_deploy.train.recipe import Recipe

    recipe = Recipe(epochs, batch, lr, seed, statistics_images)
    timing = MeasureOptions(batch_sizes=bench_batch, budget_s=budget, seed=seed)
    run = RunFolder(run_dir)
    loaded = data.load(dataset, data_dir=data_dir, track=console.track)
    console.notice(loaded.notice)
    report = everything(
        run,
        loaded,
        recipe,
        model_name=model,
        norm=norm,
        measure_options=timing,
        threads=threads,
        data_dir=data_dir,
        track=console.track,
    )
    console.show(report_text(report), report.to_json(), as_json=as_json)
    return report.exit_code
