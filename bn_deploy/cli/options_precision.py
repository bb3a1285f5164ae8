"""The options of precision, each once, as those in options.py."""

from __future__ import annotations

from collections.abc import Callable

import click

from bn_deploy.cli.options import F
from bn_deploy.spec import CALIBRATION_IMAGES, TARGETS, Precision


def precision_option(help_text: str) -> Callable[[F], F]:
    """`--precision`, with what it does to the command that has it."""
    return click.option(
        "--precision",
        type=click.Choice([one.value for one in Precision]),
        default=Precision.FP32.value,
        show_default=True,
        help=help_text,
    )


def _precisions(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[Precision, ...]:
    return tuple(Precision(value) for value in values)


precisions = click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice([one.value for one in Precision]),
    callback=_precisions,
    help="Also export, build and verify the folded network in this precision; may be given again.",
)
precision = precision_option(
    "Also write the folded network in this precision, as model.folded.PRECISION.onnx."
)
calibration_images = click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=CALIBRATION_IMAGES,
    show_default=True,
    help="Training images that ranges and roundings are measured on.",
)
for_tensorrt = click.option(
    "--for-tensorrt",
    type=click.Choice(TARGETS),
    default=TARGETS[0],
    show_default=True,
    help="What int8+fp16 is for: 10+ takes each type from the graph; 8.x chooses fp16 itself.",
)
