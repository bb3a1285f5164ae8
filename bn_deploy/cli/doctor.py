"""`bn-deploy doctor`."""

from __future__ import annotations

import click

from bn_deploy.cli import console, options


@click.command("doctor")
@options.common
def command(as_json: bool) -> None:
    """Show what is here: Python, PyTorch, ONNX Runtime and its providers, TensorRT, driver, GPU."""
    from bn_deploy.doctor import examine
    from bn_deploy.report.text import doctor_text

    findings = examine()
    console.show(doctor_text(findings), findings, as_json=as_json)
