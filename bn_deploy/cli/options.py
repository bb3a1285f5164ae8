"""Every option once, as a value, so that names and help texts cannot differ between commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from bn_deploy.data import AUTO, CHOICES
from bn_deploy.spec import BatchRange
from bn_deploy.train.recipe import Recipe

F = TypeVar("F", bound=Callable[..., Any])


def _set_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.obj.verbose = True


def batch_range_of(text: str) -> BatchRange:
    """What "MIN:OPT:MAX" or one number says.

    Raises:
        click.BadParameter: it says nothing of the kind.
    """
    try:
        sizes = BatchRange.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    check_size(sizes.maximum)
    return sizes


def check_size(batch: int) -> None:
    """Refuses a batch size that no machine has the memory for; click names the option."""
    if batch > _LARGEST_BATCH:
        raise click.BadParameter(f"a batch size may be {_LARGEST_BATCH:,} at most, not {batch:,}")


class _Path(click.Path):
    """A path that has a name: an unset variable must not mean the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the name is empty", param, ctx)
        return super().convert(value, param, ctx)


FILE = _Path(path_type=Path, dir_okay=False)
_FOLDER = _Path(path_type=Path, file_okay=False)
THREADS = click.IntRange(1, 1024)
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
    "--checkpoint", type=FILE, help="Take the network from this file instead of the run's own checkpoint."
)
fold_bn = click.option(
    "--fold-bn",
    is_flag=True,
    help="Also write model.folded.onnx, with batch norms folded into the weights before them.",
)
src = click.argument("src", metavar="SRC.onnx", type=FILE)
dst = click.argument("dst", metavar="DST.onnx", type=FILE)
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
file = click.argument("file", metavar="FILE", type=FILE)
models = click.argument("models", metavar="[A.onnx B.onnx|B.plan]", nargs=-1, type=FILE)
inputs = click.option(
    "--inputs",
    type=FILE,
    metavar="FILE.npz",
    help="Inputs for two models, an array under each input's name.",
)
from_file = click.option(
    "--from", "from_file", type=FILE, metavar="parity.json", help="Judge stored numbers again; run nothing."
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
train_threads = click.option(
    "--train-threads", type=THREADS, help="CPU threads of the training. [default: every core]"
)
threads = click.option(
    "--threads", type=THREADS, default=1, show_default=True, help="CPU threads of each backend."
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
