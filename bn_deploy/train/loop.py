"""Trains a network on images that lie in memory, and measures how well it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bn_deploy.batchnorm.flavours import find
from bn_deploy.data.batches import shuffled
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.errors import CheckFailed
from bn_deploy.spec import Track, silent
from bn_deploy.train.recipe import Recipe
from bn_deploy.train.statistics import reestimate


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
    track: Track = silent,
) -> tuple[nn.Module, Training]:
    """Builds a network, trains it by `recipe` and re-estimates its batch-norm statistics.

    Deterministic: the same recipe, images and number of threads give the same weights, bit for bit.

    Args:
        build: makes the network; called once, under the recipe's seed.
        dataset: images (N, 1, 28, 28) and labels (N,), for training and for testing.
        recipe: the hyper-parameters.
        clock: returns seconds.
        track: follows the batches of each epoch.

    Returns:
        The network, in eval mode, and what the training did.

    Raises:
        CheckFailed: the loss became NaN or infinite.
    """
    with _deterministic(recipe.seed):
        network = build()
        network.apply(_xavier)
        images, labels = _tensors(dataset.train)
        optimizer = torch.optim.SGD(network.parameters(), lr=recipe.lr)
        epochs: list[Epoch] = []
        seconds = 0.0
        for number in range(recipe.epochs):
            start = clock()
            loss, right = _one_epoch(network, optimizer, images, labels, recipe, number, track)
            seconds += clock() - start
            epochs.append(
                Epoch(loss / len(labels), right / len(labels), accuracy_of(network, dataset.test))
            )
        moving = epochs[-1].test_accuracy
        count = min(recipe.statistics_images, len(labels))
        order = torch.from_numpy(next(shuffled(len(labels), count, seed=recipe.seed, epoch=recipe.epochs)))
        reestimate(network, images[order], track=track)
    network.eval()
    gamma, beta = _first_scale_and_shift(network)
    return network, Training(
        epochs=tuple(epochs),
        examples_per_s=recipe.epochs * len(labels) / seconds,
        test_accuracy_moving=moving,
        test_accuracy=accuracy_of(network, dataset.test),
        statistics_images=count,
        threads=torch.get_num_threads(),
        first_gamma=gamma,
        first_beta=beta,
    )


def _one_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    number: int,
    track: Track,
) -> tuple[float, int]:
    """One pass; returns the summed loss and the number of right answers."""
    network.train()
    summed = torch.zeros((), dtype=torch.float64)
    right = torch.zeros((), dtype=torch.int64)
    batches = shuffled(len(labels), recipe.batch, seed=recipe.seed, epoch=number)
    steps = math.ceil(len(labels) / recipe.batch)
    for index in track(batches, f"epoch {number + 1}/{recipe.epochs}", steps):
        chosen = torch.from_numpy(index)
        if len(chosen) < 2:
            continue  # a single left-over image has no variance; it comes up in another epoch's order
        target = labels[chosen]
        logits = network(images[chosen])
        loss = F.cross_entropy(logits, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares it untyped
        optimizer.step()
        with torch.no_grad():
            summed += loss.double() * len(chosen)
            right += (logits.argmax(1) == target).sum()
    if not math.isfinite(summed.item()):
        raise CheckFailed(f"training diverged in epoch {number + 1}: the loss is {summed.item()}; try a smaller --lr")
    return summed.item(), int(right.item())


@torch.no_grad()
def accuracy_of(network: nn.Module, split: Split, batch: int = 1000) -> float:
    """The share of images that `network` gets right in eval mode; its mode is restored."""
    was_training = network.training
    network.eval()
    images, labels = _tensors(split)
    right = sum(
        int((network(images[i : i + batch]).argmax(1) == labels[i : i + batch]).sum())
        for i in range(0, len(labels), batch)
    )
    network.train(was_training)
    return right / len(labels)


def _tensors(split: Split) -> tuple[Tensor, Tensor]:
    """Images and labels as tensors on the same memory."""
    return torch.from_numpy(split.images), torch.from_numpy(split.labels)


def _xavier(module: nn.Module) -> None:
    """The book's initialisation: Xavier-uniform weights for convolutions and linear layers."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)


def _first_scale_and_shift(network: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """gamma and beta of the first batch norm, as the book prints them; empty if there is none."""
    for found in find(network):
        params = found.flavour.params(found.module)
        return tuple(params.weight.tolist()), tuple(params.bias.tolist())
    return (), ()


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seeds torch and asks for deterministic kernels; both settings are put back afterwards."""
    before = torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
