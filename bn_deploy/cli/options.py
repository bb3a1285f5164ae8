"""Every option once, as a value, so that names and help texts cannot differ between commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from bn_deploy.backends import BACKENDS
from bn_deploy.data import AUTO, CHOICES
from bn_deploy.spec import BatchRange
from bn_deploy.train.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj.verbose = True


def _batch_range(_: click.Context, __: click.Parameter, value: str | None) -> BatchRange | None:
    if value is None:
        return None
    try:
        sizes = BatchRange.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    _check_size(sizes.maximum)
    return sizes


def _batch_sizes(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected sizes such as 1,8,64, not {value!r}") from None
    if min(sizes) < 1:
        raise click.BadParameter(f"a batch size must be at least 1, not {min(sizes)}")
    _check_size(max(sizes))
    return sizes


def _check_size(batch: int) -> None:
    if batch > _LARGEST_BATCH:
        raise click.BadParameter(f"a batch size may be {_LARGEST_BATCH:,} at most, not {batch:,}")


class _Path(click.Path):
    """A path that has a name: an unset variable must not mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


_FILE = _Path(path_type=Path, dir_okay=False)
_FOLDER = _Path(path_type=Path, file_okay=False)
_THREADS = click.IntRange(1, 1024)
_LARGEST_BATCH = 65_536

run = click.option(
    "--run",
    "run_dir",
    type=_FOLDER,
    default=Path("runs/lenet"),
    show_default=True,
    help="The folder of this run; every command reads and writes fixed names in it.",
)
verbose = click.option(
    "--verbose",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_set_verbose,
    help="Show the trace of an error.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
data_dir = click.option(
    "--data-dir",
    type=_FOLDER,
    help="Folder of the data set's files. [default: $BN_DEPLOY_DATA, the user cache]",
)
dataset = click.option(
    "--dataset",
    type=click.Choice(CHOICES),
    default="fashion-mnist",
    show_default=True,
    help=f"What to train on; {AUTO} takes the synthetic set where Fashion-MNIST cannot be had.",
)
model = click.option("--model", default="lenet", show_default=True, help="The network to train.")
norm = click.option(
    "--norm",
    default="custom",
    show_default=True,
    help="custom: the hand-written batch norm; torch: nn.BatchNorm.",
)
epochs = click.option(
    "--epochs", type=int, default=10, show_default=True, help="Passes over the training images."
)
train_batch = click.option(
    "--batch", type=int, default=256, show_default=True, help="Images per training step."
)
lr = click.option("--lr", type=float, default=1.0, show_default=True, help="Learning rate of plain SGD.")
seed = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the weights and the images' order."
)
turns_seed = click.option(
    "--seed", type=int, default=0, show_default=True, help="Of the order in which candidates take turns."
)
statistics_images = click.option(
    "--statistics-images",
    type=int,
    default=10_000,
    show_default=True,
    help="Training images over which the final batch-norm statistics are taken.",
)
checkpoint = click.option(
    "--checkpoint", type=_FILE, help="Take the network from this file instead of the run's own checkpoint."
)
fold_bn = click.option(
    "--fold-bn",
    is_flag=True,
    help="Also write model.folded.onnx, with batch norms folded into the weights before them.",
)
src = click.argument("src", metavar="SRC.onnx", type=_FILE)
dst = click.argument("dst", metavar="DST.onnx", type=_FILE)
pad_exact = click.option(
    "--pad-exact",
    is_flag=True,
    help="Also split a batch norm before padded zeros: its scale is folded, its shift stays as one Add.",
)
merge_branches = click.option(
    "--merge-branches",
    is_flag=True,
    help="Also merge parallel linear layers, and batch norms beside them, that are added up.",
)
check = click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Compare before and after, and write nothing that differs.",
)
strict = click.option("--strict", is_flag=True, help="Fail, with exit code 1, if a batch norm stays.")
batch_range = click.option(
    "--batch",
    "batch",
    callback=_batch_range,
    metavar="MIN:OPT:MAX",
    help="Batch sizes that the engine accepts and is tuned for. [default: 1:64:256]",
)
workspace = click.option(
    "--workspace-mib", type=click.IntRange(1, 1 << 20), help="GPU memory a kernel may use, MiB."
)
tf32 = click.option("--tf32", is_flag=True, help="Allow TF32 products, which keep 10 bits of the mantissa.")
optimization_level = click.option(
    "--optimization-level", type=click.IntRange(0, 5), help="How hard TensorRT searches for fast kernels."
)
models = click.argument("models", metavar="[A.onnx B.onnx|B.plan]", nargs=-1, type=_FILE)
inputs = click.option(
    "--inputs",
    type=_FILE,
    metavar="FILE.npz",
    help="Inputs for two models, an array under each input's name.",
)
from_file = click.option(
    "--from", "from_file", type=_FILE, metavar="parity.json", help="Judge stored numbers again; run nothing."
)
localise = click.option(
    "--localise", is_flag=True, help="Also compare layer by layer, and name the first layer that is off."
)
max_abs = click.option(
    "--max-abs",
    type=click.FloatRange(min=0),
    help="Also fail where a logit differs from float64 by more than this.",
)
min_agreement = click.option(
    "--min-agreement",
    type=click.FloatRange(0, 1),
    help="Also fail where a smaller share of labels agrees with float64.",
)
bound = click.option(
    "--bound",
    type=click.Choice(["first-order", "strict"]),
    default="first-order",
    show_default=True,
    help="How labels are proven: strict neglects nothing, and proves fewer.",
)
require_engine = click.option(
    "--require-engine", is_flag=True, help="Fail, with exit code 3, where the engine cannot be run."
)
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
    default="1,8,64,256",
    show_default=True,
    callback=_batch_sizes,
    help="Batch sizes to time.",
)
bench_batch_sizes = click.option(
    "--bench-batch",
    default="1,8,64,256",
    show_default=True,
    callback=_batch_sizes,
    help="Batch sizes to time.",
)
scope = click.option(
    "--scope",
    type=click.Choice(["end_to_end", "compute"]),
    default="end_to_end",
    show_default=True,
    help="Time inputs in to outputs out, or the computation alone.",
)
budget = click.option(
    "--budget",
    type=float,
    default=1.3,
    show_default=True,
    help="Seconds for each candidate at each batch size.",
)
train_threads = click.option(
    "--train-threads", type=_THREADS, help="CPU threads of the training. [default: every core]"
)
threads = click.option(
    "--threads", type=_THREADS, default=1, show_default=True, help="CPU threads of each backend."
)


def common(command: F) -> F:
    """The options that every command has."""
    return as_json(verbose(command))


@dataclass(frozen=True)
class ToTrain:
    """What the training options say."""

    dataset: str
    model: str
    norm: str
    recipe: Recipe
    threads: int | None

    def check(self) -> None:
        """Refuses an unknown model or norm before anything is read or written; loads torch, which knows them.

        Raises:
            InputError: there is no such model or norm layer.
        """
        from bn_deploy import model

        model.model(self.model)
        model.norm_factory(self.norm)


def training(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of everything that trains; the command gets them as one argument, `to_train`."""

    @wraps(command)
    def gathered(
        *,
        dataset: str,
        model: str,
        norm: str,
        epochs: int,
        batch: int,
        lr: float,
        seed: int,
        statistics_images: int,
        train_threads: int | None,
        **rest: Any,
    ) -> Any:
        recipe = Recipe(epochs, batch, lr, seed, statistics_images)
        return command(to_train=ToTrain(dataset, model, norm, recipe, train_threads), **rest)

    recipe_options = (epochs, train_batch, lr, seed, statistics_images)
    for option in reversed((dataset, model, norm, *recipe_options, train_threads)):
        gathered = option(gathered)
    return gathered
