"""The options of measuring, each once, as `options` has those of everything else."""

from __future__ import annotations

import click

from bn_deploy.backends import BACKENDS
from bn_deploy.cli.options import FILE, THREADS, check_size
from bn_deploy.spec import Precision


def _batch_sizes(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        first, _dots, last = value.partition("..")
        sizes = _doubling(int(first), int(last)) if last else tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected sizes such as 1,8,64 or 1..1024, not {value!r}") from None
    if min(sizes) < 1:
        raise click.BadParameter(f"a batch size must be at least 1, not {min(sizes)}")
    check_size(max(sizes))
    return sizes


def _doubling(first: int, last: int) -> tuple[int, ...]:
    """`first`, twice that and so on, up to `last`."""
    sizes = [max(1, first)]
    while sizes[-1] * 2 <= last:
        sizes.append(sizes[-1] * 2)
    return (first, *sizes[1:])


def _percent(_: click.Context, __: click.Parameter, value: str) -> float:
    number = value.removesuffix("%").strip()
    try:
        share = float(number) / 100 if value.endswith("%") else float(number)
    except ValueError:
        raise click.BadParameter(f"expected a share such as 3% or 0.03, not {value!r}") from None
    if not 0 <= share < 1:
        raise click.BadParameter(f"a slow-down is at least 0% and less than 100%, not {value!r}")
    return share


def _forms(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",")) if value else ()


backends = click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice([row.name for row in BACKENDS]),
    help="Time only this one; may be given again. [default: all that are available]",
)
batch_sizes = click.option(
    "--batch",
    "batch",
    metavar="SIZES",
    callback=_batch_sizes,
    help="Batch sizes to time, such as 1,8,64 or 1..1024 for powers of two. "
    "[default: 1,8,64,256; with --quick: 1,8,64; server: 1; offline: 1..1024]",
)
bench_batch_sizes = click.option(
    "--bench-batch",
    metavar="SIZES",
    default="1,8,64,256",
    show_default=True,
    callback=_batch_sizes,
    help="Batch sizes to time.",
)
scope = click.option(
    "--scope",
    type=click.Choice(["end_to_end", "compute", "h2d", "d2h"]),
    help="Time inputs in to outputs out, the computation alone, or a transfer alone. [default: end_to_end]",
)
regime = click.option(
    "--regime",
    type=click.Choice(["warm", "cold"]),
    help="The same inputs again and again, or other ones and empty caches at each call. [default: warm]",
)
scenario = click.option(
    "--scenario",
    type=click.Choice(["single", "server", "offline"]),
    help="One call after the other, calls that arrive at random, or the best throughput. [default: single]",
)
rate = click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), help="Calls that arrive in a second, for a server."
)
budget = click.option(
    "--budget",
    type=float,
    help="Seconds for the whole timing, processes included. [default: 70; with --quick: 6]",
)
processes = click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    help="Fresh processes to time in; a verdict needs 6. [default: 9; with --quick: 1]",
)
quick = click.option("--quick", is_flag=True, help="Look in a few seconds, decide nothing.")
forms = click.option(
    "--compare",
    "forms",
    metavar="FORMS",
    callback=_forms,
    help="Time only these forms, such as custom,native,folded, on one backend. [backend: ort]",
)
bench_precision = click.option(
    "--precision",
    type=click.Choice([one.value for one in Precision]),
    help="Number format of the backends that can be asked for one "
    f"({', '.join(row.name for row in BACKENDS if row.precisions)}). [default: the file's]",
)
against = click.option(
    "--against",
    type=FILE,
    metavar="latency.json",
    help="Measure as that file was measured and compare with it; writes nothing.",
)
max_slowdown = click.option(
    "--max-slowdown",
    default="3%",
    show_default=True,
    callback=_percent,
    help="How much slower than --against passes.",
)
anyway = click.option(
    "--anyway", is_flag=True, help="Compare with --against even across machines or versions."
)
unverified = click.option(
    "--unverified", is_flag=True, help="Time also what is not known to compute the same."
)
onnx_models = click.argument("models", metavar="[A.onnx B.onnx ...]", nargs=-1, type=FILE)
bench_threads = click.option(
    "--threads",
    type=THREADS,
    help="CPU threads of each backend. [default: tried out, two seconds a backend; with --quick: 1]",
)
