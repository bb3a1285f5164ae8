"""`bn-deploy run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bn_deploy.cli import bench_options, console, options, options_precision
from bn_deploy.spec import Precision


@click.command("run")
@options.run
@options.data_dir
@options.training
@options_precision.precisions
@options_precision.for_tensorrt
@bench_options.bench_batch_sizes
@bench_options.budget
@bench_options.processes
@options.threads
@options.common
def command(
    run_dir: Path,
    data_dir: Path | None,
    to_train: options.ToTrain,
    precisions: tuple[Precision, ...],
    for_tensorrt: str,
    bench_batch: tuple[int, ...],
    budget: float | None,
    processes: int | None,
    threads: int,
    as_json: bool,
) -> int:
    """Train, export, fold, build, verify and bench in one go; print the report.

    Writes everything that the single commands write, and report.json.
    """
    from bn_deploy import data
    from bn_deploy.bench.options import MeasureOptions
    from bn_deploy.pipeline.chain import everything
    from bn_deploy.report.text import report_text
    from bn_deploy.run_folder import RunFolder

    given: dict[str, Any] = {"budget_s": budget, "processes": processes}
    timing = MeasureOptions(
        batch_sizes=bench_batch,
        seed=to_train.recipe.seed,
        **{name: value for name, value in given.items() if value is not None},
    )
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
        precisions=precisions,
        target=for_tensorrt,
        measure_options=timing,
        threads=threads,
        track=console.track,
    )
    console.show(report_text(report), report.to_json(), as_json=as_json)
    return report.exit_code
