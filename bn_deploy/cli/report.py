"""`bn-deploy report`."""

from __future__ import annotations

from pathlib import Path

import click

from bn_deploy.cli import console, options


@click.command("report")
@options.run
@options.common
def command(run_dir: Path, as_json: bool) -> int:
    """Print the report of a run folder from the files that are in it."""
    from bn_deploy.pipeline.chain import collect
    from bn_deploy.report.text import report_text
    from bn_deploy.run_folder import RunFolder

    report = collect(RunFolder(run_dir))
    console.show(report_text(report), report.to_json(), as_json=as_json)
    return report.exit_code
