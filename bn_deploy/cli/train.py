"""`bn-deploy train`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options


@click.command("train")
@options.run
@options.data_dir
@options.training
@options.common
def command(run_dir: Path, data_dir: Path | None, to_train: options.ToTrain, as_json: bool) -> None:
    """Train the network and re-estimate its batch-norm statistics.

    Writes checkpoint.safetensors, training.json and training.png.
    """
    from bn_deploy import data
    from bn_deploy.pipeline.make import train
    from bn_deploy.report.text import training_text
    from bn_deploy.run_folder import RunFolder

    to_train.check()
    run = RunFolder(run_dir)
    run.prepare()
    loaded = data.load(to_train.dataset, data_dir=data_dir, track=console.track)
    console.notice(loaded.notice)
    training = train(
        run,
        loaded,
        to_train.recipe,
        model_name=to_train.model,
        norm=to_train.norm,
        threads=to_train.threads,
        track=console.track,
    )
    about = {"dataset": loaded.name, "dataset_notice": loaded.notice}
    console.show(training_text(training), {**about, **training.to_json()}, as_json=as_json)
