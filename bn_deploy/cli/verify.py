"""`bn-deploy verify`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options


@click.command("verify")
@options.run
@options.data_dir
@options.require_engine
@options.threads
@options.common
def command(run_dir: Path, data_dir: Path | None, require_engine: bool, threads: int, as_json: bool) -> int:
    """Compare trained, converted, folded, ONNX and engine over the test set.

    Writes parity.json. Exit code 1 names the step that broke the network.
    """
    from bn_deploy.pipeline.evidence import verify
    from bn_deploy.report.text import parity_text
    from bn_deploy.run_folder import RunFolder

    parity = verify(
        RunFolder(run_dir),
        data_dir=data_dir,
        require_engine=require_engine,
        threads=threads,
        track=console.track,
    )
    console.show(parity_text(parity), parity.to_json(), as_json=as_json)
    return parity.exit_code
