"""`bn-deploy verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bn_deploy.cli import console, options, options_engine

if TYPE_CHECKING:
    from bn_deploy.backends.options import RunOptions
    from bn_deploy.verify.parity import Limits, Parity


@click.command("verify")
@options.models
@options.run
@options.data_dir
@options.inputs
@options.from_file
@options.localise
@options.max_abs
@options.min_agreement
@options.bound
@options.require_engine
@options.threads
@options_engine.running
@options.common
def command(
    models: tuple[Path, ...],
    run_dir: Path,
    data_dir: Path | None,
    inputs: Path | None,
    from_file: Path | None,
    localise: bool,
    max_abs: float | None,
    min_agreement: float | None,
    bound: str,
    require_engine: bool,
    threads: int,
    running: RunOptions,
    as_json: bool,
) -> int:
    """Compare every form of the network with float64 over the test set, and prove its labels.

    Writes parity.json. Exit code 1 names the step that broke the network. With two models, A.onnx and
    B.onnx or B.plan, compares B with A on random or given inputs instead, and writes nothing. No tolerance
    need be given: each bound comes from the trained network, and the report says how.
    """
    from bn_deploy.report.verification import parity_text
    from bn_deploy.verify.parity import Limits

    limits = Limits(max_abs, min_agreement)
    parity: Parity
    if from_file is not None:
        _only(
            models or localise or inputs or running.asked(),
            "--from judges stored numbers again and runs nothing",
        )
        parity = _stored(from_file, limits)
    elif models:
        _only(localise, "--localise looks into the models of a run folder")
        if len(models) != 2:
            raise click.UsageError("give two models to compare, or none for those of --run")
        from bn_deploy.pipeline.two_files import verify_files

        parity = verify_files(
            *models, inputs=inputs, threads=threads, limits=limits, running=running, track=console.track
        )
    else:
        _only(inputs, "--inputs goes with two models; a run folder is verified on its own test set")
        from bn_deploy.pipeline.verification import verify
        from bn_deploy.run_folder import RunFolder

        parity = verify(
            RunFolder(run_dir),
            data_dir=data_dir,
            require_engine=require_engine,
            threads=threads,
            limits=limits,
            bound=bound,
            localise=localise,
            running=running,
            track=console.track,
        )
    console.show(parity_text(parity), parity.to_json(), as_json=as_json)
    return parity.exit_code


def _only(unwanted: object, message: str) -> None:
    if unwanted:
        raise click.UsageError(message)


def _stored(path: Path, limits: Limits) -> Parity:
    """What an earlier run found, under these limits."""
    from bn_deploy.artifact import read_json
    from bn_deploy.errors import InputError
    from bn_deploy.verify.parity import Parity

    try:
        return Parity.from_json(read_json(path)).judged_by(limits)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
