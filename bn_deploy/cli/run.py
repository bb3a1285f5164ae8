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
    to_train: options.ToTrain,
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

    timing = MeasureOptions(batch_sizes=bench_batch, budget_s=budget, seed=to_train.recipe.seed)
    to_train.check()
    run = RunFolder(run_dir)
    run.prepare()
    loaded = data.load(to_train.dataset, data_dir=data_dir, track=console.track)
    console.notice(loaded.notice)
    report = everything(
        run,
        loaded,
        to_train.recipe,
        model_name=to_train.model,
        norm=to_train.norm,
        train_threads=to_train.threads,
        measure_options=timing,
        threads=threads,
        track=console.track,
    )
    console.show(report_text(report), report.to_json(), as_json=as_json)
    return report.exit_code
