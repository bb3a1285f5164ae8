from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bn_deploy.data.batches import shuffled
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.errors import CheckFailed, DataError
from bn_deploy.model import build
from bn_deploy.train.loop import Training, accuracy_of, train
from bn_deploy.train.recipe import Recipe
from tests.lenets import garments

T = TypeVar("T")
RECIPE = Recipe(epochs=1, batch=50, lr=0.5, seed=4, statistics_images=100)


class Ticks:
    """A clock that moves by one second each time it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


def with_train_images(count: int) -> Dataset:
    part = garments().train
    return dataclasses.replace(garments(), train=Split(part.images[:count], part.labels[:count]))


SMALL = with_train_images(150)


def run(
    recipe: Recipe = RECIPE, norm: str = "custom", dataset: Dataset = SMALL
) -> tuple[nn.Module, Training]:
    return train(lambda: build("lenet", norm), dataset, recipe, clock=Ticks())


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("norm", ["custom", "torch"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(norm: str) -> None:
    torch.manual_seed(1)
    first, told = run(norm=norm)
    torch.manual_seed(2)  # what the caller drew before must not matter
    second, told_again = run(norm=norm)
    assert same(first, second)
    assert told == told_again


def test_another_seed_gives_other_weights() -> None:
    assert not same(run()[0], run(dataclasses.replace(RECIPE, seed=5))[0])


@pytest.mark.parametrize(("enabled", "warn_only"), [(False, False), (True, False), (True, True)])
def test_the_callers_settings_come_back(enabled: bool, warn_only: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
    try:
        torch.manual_seed(9)
        state = torch.get_rng_state()
        run()
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.are_deterministic_algorithms_enabled() is enabled
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warn_only
    finally:
        torch.use_deterministic_algorithms(before)


def test_the_callers_settings_come_back_after_a_failure() -> None:
    state = torch.get_rng_state()

    def fail() -> nn.Module:
        assert torch.are_deterministic_algorithms_enabled()
        torch.rand(3)
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        train(fail, SMALL, RECIPE, clock=Ticks())
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_numbers_of_a_training_are_those_of_the_batches_that_went_by() -> None:
    """Done again by hand: loss and accuracy over the batches, time without evaluation."""
    network, training = run()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE.seed)
        again = build("lenet", "custom")
        for module in again.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.xavier_uniform_(module.weight)
    images, labels = (torch.from_numpy(a) for a in (SMALL.train.images, SMALL.train.labels))
    losses, right = [], 0
    again.train()
    for rows in shuffled(150, 50, seed=RECIPE.seed, epoch=0):
        logits = again(images[rows])
        loss = F.cross_entropy(logits, labels[rows])
        again.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch declares it untyped
        with torch.no_grad():
            for parameter in again.parameters():
                assert parameter.grad is not None
                parameter.sub_(RECIPE.lr * parameter.grad)
        losses.append(loss.item())
        right += int((logits.argmax(1) == labels[rows]).sum())
    epoch = training.epochs[0]
    assert epoch.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert epoch.train_accuracy == right / 150
    assert epoch.test_accuracy == training.test_accuracy_moving == accuracy_of(again, garments().test)
    for (name, ours), theirs in zip(network.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
    assert training.test_accuracy == accuracy_of(network, garments().test)
    assert training.examples_per_s == 150.0  # one second between the clock's two readings
    assert training.statistics_images == 100
    assert training.threads == torch.get_num_threads()
    assert training.first_gamma == tuple(network.get_submodule("1").gamma.flatten().tolist())  # type: ignore[operator]  # a tensor
    assert len(training.first_beta) == 6
    assert not network.training
    json.dumps(training.to_json(), allow_nan=False)


def test_a_last_batch_of_one_image_is_left_out_of_the_training_and_of_its_numbers() -> None:
    odd = run(dataset=with_train_images(51))[1]
    assert odd.examples_per_s == 50.0
    assert (odd.epochs[0].train_accuracy * 50).is_integer()
    assert odd.statistics_images == 51  # they have their variance over all of them


def test_without_two_images_there_is_no_training() -> None:
    with pytest.raises(DataError, match=r"^training needs at least 2 images to have a variance, not 1$"):
        run(dataset=with_train_images(1))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lr": 1e30}, r"epoch 1: \S+ holds NaN or infinity"),
        # The only step leaves finite weights; only what they compute is not.
        ({"lr": 1e30, "batch": 150}, r"the batch norms' statistics: \S+ holds NaN or infinity"),
    ],
    ids=["in an epoch", "after the last step"],
)
def test_a_training_that_diverges_is_a_failed_check(values: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckFailed, match=rf"^training diverged in {said}; try a smaller --lr$"):
        run(dataclasses.replace(RECIPE, **values))


def test_an_infinite_loss_is_a_failed_check_even_where_the_weights_survive() -> None:
    def overflowing() -> nn.Module:
        layer = nn.Linear(784, 10)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([-2e38] * 5 + [2e38] * 5))  # their difference overflows
        return nn.Sequential(nn.Flatten(), layer)

    with pytest.raises(CheckFailed, match=r"^training diverged in epoch 1: the loss is inf; try a smaller"):
        train(overflowing, SMALL, RECIPE, clock=Ticks())


def test_progress_is_told_batch_by_batch_and_layer_by_layer() -> None:
    told: list[tuple[str, int, int]] = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        count = 0
        for item in items:
            count += 1
            yield item
        told.append((description, total, count))

    recipe = dataclasses.replace(RECIPE, epochs=2)
    train(lambda: build("lenet", "custom"), with_train_images(120), recipe, clock=Ticks(), track=track)
    assert told == [("epoch 1/2", 3, 3), ("epoch 2/2", 3, 3), ("batch-norm statistics", 4, 4)]


class _Sign(nn.Module):
    """Says class 1 where the image's mean is positive, and 0 elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        mean = x.mean((1, 2, 3))
        return torch.stack([-mean, mean], 1)


def test_accuracy_is_the_share_of_right_answers_whatever_the_batch() -> None:
    signs = np.array([1, 1, 1, -1, -1, -1, -1], np.float32).reshape(7, 1, 1, 1)
    split = Split(np.tile(signs, (1, 1, 2, 2)), np.array([1, 0, 1, 0, 0, 1, 0]))
    network = nn.Sequential(_Sign(), nn.Identity().eval())
    network.train()
    network[1].eval()
    for batch in (1, 3, 7, 100):
        assert accuracy_of(network, split, batch=batch) == 5 / 7
    assert [m.training for m in network.modules()] == [True, True, False]  # each part as it was


def test_accuracy_of_no_images_is_refused() -> None:
    empty = Split(np.zeros((0, 1, 28, 28), np.float32), np.zeros(0, np.int64))
    with pytest.raises(DataError, match="no images"):
        accuracy_of(build("lenet", "torch"), empty)
