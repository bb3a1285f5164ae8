"""Trains a network on images that lie in memory, and measures how well it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bn_deploy.batchnorm.flavours import find
from bn_deploy.data.batches import shuffled, slices
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.errors import CheckFailed, DataError
from bn_deploy.spec import Track, silent
from bn_deploy.train.recipe import Recipe
from bn_deploy.train.statistics import evaluating, reestimate


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images gave.

    Attributes:
        loss: mean cross-entropy of the training batches, as they went by (nats).
        train_accuracy: share of the training images that were right as they went by.
        test_accuracy: share of the test images that are right after the epoch, in eval mode.
    """

    loss: float
    train_accuracy: float
    test_accuracy: float


@dataclass(frozen=True)
class Training:
    """What a training did.

    Attributes:
        epochs: one entry a pass.
        examples_per_s: training images a second, evaluation apart.
        test_accuracy_moving: with the statistics that training's moving average left.
        test_accuracy: with the re-estimated statistics, which the network keeps.
        statistics_images: over how many training images they were taken.
        threads: torch's threads; with the same seed and as many of them, the weights are the same.
        first_gamma, first_beta: scale and shift of the first batch norm, (C,) each.
    """

    epochs: tuple[Epoch, ...]
    examples_per_s: float
    test_accuracy_moving: float
    test_accuracy: float
    statistics_images: int
    threads: int
    first_gamma: tuple[float, ...]
    first_beta: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The training as a JSON object."""
        return asdict(self)


def train(
    build: Callable[[], nn.Module],
    dataset: Dataset,
    recipe: Recipe,
    *,
    clock: Callable[[], float],
    threads: int | None = None,
    track: Track = silent,
) -> tuple[nn.Module, Training]:
    """Builds a network, trains it by `recipe` and re-estimates its batch-norm statistics.

    Deterministic: the same recipe, images and number of threads give the same weights, bit for bit.

    Args:
        build: makes the network; called once, under the recipe's seed.
        dataset: images (N, 1, 28, 28) and labels (N,), for training and for testing.
        recipe: the hyper-parameters.
        clock: returns seconds.
        threads: torch's CPU threads while it trains; None leaves them as they are.
        track: follows the batches of each epoch.

    Returns:
        The network, in eval mode, and what the training did.

    Raises:
        CheckFailed: the loss or a weight became NaN or infinite.
        DataError: there are fewer than two training images.
    """
    if len(dataset.train) < 2:
        raise DataError(f"training needs at least 2 images to have a variance, not {len(dataset.train)}")
    with _deterministic(recipe.seed, threads or torch.get_num_threads()):
        network = build()
        network.apply(_xavier)
        images, labels = _tensors(dataset.train)
        optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr)
        epochs: list[Epoch] = []
        seconds = 0.0
        seen = 0
        for number in range(recipe.epochs):
            rows = shuffled(len(labels), recipe.batch, seed=recipe.seed, epoch=number)
            steps = math.ceil(len(labels) / recipe.batch)
            batches = track(rows, f"epoch {number + 1}/{recipe.epochs}", steps)
            start = clock()
            went = _one_epoch(network, optimizer, images, labels, batches)
            seconds += clock() - start
            seen += went.images
            _require_finite(network, f"epoch {number + 1}", went.loss)
            accuracy = accuracy_of(network, dataset.test)
            epochs.append(Epoch(went.loss / went.images, went.right / went.images, accuracy))
        count = min(recipe.statistics_images, len(labels))
        order = torch.from_numpy(next(shuffled(len(labels), count, seed=recipe.seed, epoch=recipe.epochs)))
        reestimate(network, images[order], track=track)
        _require_finite(network, "the batch norms' statistics")
        used_threads = torch.get_num_threads()
    network.eval()
    gamma, beta = _first_scale_and_shift(network)
    return network, Training(
        epochs=tuple(epochs),
        examples_per_s=seen / seconds,
        test_accuracy_moving=epochs[-1].test_accuracy,
        test_accuracy=accuracy_of(network, dataset.test),
        statistics_images=count,
        threads=used_threads,
        first_gamma=gamma,
        first_beta=beta,
    )


@dataclass(frozen=True)
class _Pass:
    """What went by in an epoch: the images, and over them the summed loss and how many were right."""

    images: int
    loss: float
    right: int


def _one_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    batches: Iterable[NDArray[np.int64]],
) -> _Pass:
    """One pass over the batches, each given as row numbers (n,)."""
    network.train()
    seen = 0
    loss_sum = torch.zeros((), dtype=torch.float64)
    right = torch.zeros((), dtype=torch.int64)
    for rows in batches:
        if len(rows) < 2:
            continue  # a single left-over image has no variance; it comes up in another epoch's order
        chosen = torch.from_numpy(rows)
        target = labels[chosen]
        logits = network(images[chosen])
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares it untyped
        optimizer.step()
        seen += len(rows)
        # Kept as tensors until the pass is over, so that no step waits for a number to be read.
        with torch.no_grad():
            loss_sum += loss.double() * len(rows)
            right += (logits.argmax(1) == target).sum()
    return _Pass(seen, loss_sum.item(), int(right.item()))


def _require_finite(network: nn.Module, where: str, loss: float = 0.0) -> None:
    """Refuses a network that diverged, also where only the step after the last one would have shown it."""
    broken = [name for name, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()]
    if not math.isfinite(loss) or broken:
        what = f"{broken[0]} holds NaN or infinity" if broken else f"the loss is {loss}"
        raise CheckFailed(f"training diverged in {where}: {what}; try a smaller --lr")


@torch.no_grad()
def accuracy_of(network: nn.Module, split: Split, batch: int = 1000) -> float:
    """The share of the images that `network` gets right in eval mode; the mode of each part is restored.

    Raises:
        DataError: there are no images.
    """
    if not len(split):
        raise DataError("there are no images to measure the accuracy on")
    images, labels = _tensors(split)
    with evaluating(network):
        right = sum(
            int((network(images[part]).argmax(1) == labels[part]).sum()) for part in slices(len(split), batch)
        )
    return right / len(split)


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors on the same memory."""
    return torch.from_numpy(split.images), torch.from_numpy(split.labels)


def _xavier(module: nn.Module) -> None:
    """The book's initialisation: Xavier-uniform weights for convolutions and linear layers."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)


def _first_scale_and_shift(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Scale and shift of the first batch norm, which the book prints; empty if there is none."""
    for found in find(network):
        params = found.flavour.params(found.module)
        return tuple(params.weight.tolist()), tuple(params.bias.tolist())
    return (), ()


@contextmanager
def _deterministic(seed: int, threads: int) -> Iterator[None]:
    """Seeds torch, asks for deterministic kernels and sets the threads; all is put back afterwards."""
    threads_before = torch.get_num_threads()
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads_before)
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
