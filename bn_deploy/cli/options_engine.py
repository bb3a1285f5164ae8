"""The options of building and running an engine, each once, as those in options.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from bn_deploy.backends.options import RunOptions, flag
from bn_deploy.cli.options import FILE, batch_range_of
from bn_deploy.cli.options_precision import precision_option
from bn_deploy.engine.options import HARDWARE_LEVELS
from bn_deploy.spec import BatchRange


def _batch_ranges(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[BatchRange, ...]:
    ranges = tuple(batch_range_of(value) for value in values)
    if len(set(ranges)) != len(ranges):
        raise click.BadParameter("the same batch range was given twice")
    return ranges


def _targets(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    if value is None:
        return None
    targets = tuple(part.strip() for part in value.split(","))
    if not all(targets) or len(set(targets)) != len(targets):
        raise click.BadParameter(f"expected compute capabilities such as 8.6,8.9, not {value!r}")
    return targets


batch_ranges = click.option(
    "--batch",
    "batch",
    multiple=True,
    callback=_batch_ranges,
    metavar="MIN:OPT:MAX",
    help="Batch sizes that the engine accepts and is tuned for; may be given again, a profile each. "
    "[default: 1:64:256]",
)
precision = precision_option(
    "Build the folded network in this precision; an engine that computes in another is an error."
)
workspace = click.option(
    "--workspace-mib", type=click.IntRange(1, 1 << 20), help="GPU memory a kernel may use, MiB."
)
tf32 = click.option("--tf32", is_flag=True, help="Allow TF32 products, which keep 10 bits of the mantissa.")
optimization_level = click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="How hard TensorRT searches for fast kernels."
)
targets = click.option(
    "--target",
    "targets",
    callback=_targets,
    metavar="8.6,8.9",
    help="Compute capabilities to build for, where TensorRT can be told: TensorRT-RTX. [default: 8.0 and up]",
)
version_compatible = click.option(
    "--version-compatible",
    is_flag=True,
    help="Let later versions of TensorRT load the plan, which then brings code for the host: whoever runs it "
    "must say --trust.",
)
exclude_lean_runtime = click.option(
    "--exclude-lean-runtime",
    is_flag=True,
    help="With --version-compatible: leave that code out; another version then needs --lean-runtime.",
)
hardware_compatible = click.option(
    "--hardware-compatible",
    type=click.Choice(list(HARDWARE_LEVELS)),
    help="Run on every GPU since Ampere, or on every one of this compute capability.",
)
timing_cache = click.option(
    "--timing-cache/--no-timing-cache",
    default=None,
    help="Keep timings of kernels for later builds. [default: where TensorRT can]",
)
detailed = click.option(
    "--detailed", is_flag=True, help="Have the engine tell each layer's kernel and types to `inspect`."
)
dry_run = click.option(
    "--dry-run", is_flag=True, help="Build nothing: list the nodes that TensorRT cannot import."
)
cuda_graph = click.option(
    flag("cuda_graph"),
    is_flag=True,
    help="Launch the kernels of a call as one recorded CUDA graph, where TensorRT can.",
)
trust = click.option(
    flag("trust"),
    is_flag=True,
    help="Let a plan bring code that runs here with your rights, as version-compatible ones do.",
)
lean_runtime = click.option(
    flag("lean_runtime"),
    type=FILE,
    metavar="FILE",
    help="The library that runs a plan of another version that was built without its own.",
)


def running(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of running an engine; the command gets them as one argument, `running`."""

    @wraps(command)
    def gathered(*, cuda_graph: bool, trust: bool, lean_runtime: Path | None, **rest: Any) -> Any:
        return command(running=RunOptions(cuda_graph, trust, lean_runtime), **rest)

    for option in (lean_runtime, trust, cuda_graph):
        gathered = option(gathered)
    return gathered
