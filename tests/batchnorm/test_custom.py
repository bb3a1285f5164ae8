from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.batchnorm import custom
from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.errors import ModelError
from tests.batchnorm.layers import hard_numbers, layer, output, random_input

SHAPES = [(16, 5), (4, 5, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_training_gives_what_torch_gives(shape: tuple[int, ...]) -> None:
    numbers, x = hard_numbers(5), random_input(*shape)
    ours, theirs = (layer(name, numbers, len(shape)).train() for name in ("custom", "torch"))
    # Both are a dozen roundings of terms near one, and the weights of `numbers` are below two.
    np.testing.assert_allclose(output(ours, x), output(theirs, x), rtol=0, atol=100 * np.finfo(float).eps)


@pytest.mark.parametrize("shape", SHAPES)
def test_training_gradients_are_those_of_torch(shape: tuple[int, ...]) -> None:
    numbers, x, upstream = hard_numbers(5), random_input(*shape), random_input(*shape, seed=2)
    gradients = []
    for name in ("custom", "torch"):
        module, leaf = layer(name, numbers, len(shape)).train(), x.clone().requires_grad_()
        (module(leaf) * upstream).sum().backward()
        gradients.append(
            torch.cat([p.grad.flatten() for p in (leaf, *module.parameters()) if p.grad is not None])
        )
    ours, theirs = gradients
    # Sums over 24 values at most, of magnitude below ten.
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e4 * np.finfo(float).eps)


@pytest.mark.parametrize("shape", SHAPES)
def test_moving_statistics_follow_the_biased_variance(shape: tuple[int, ...]) -> None:
    module = BatchNorm(5, len(shape), momentum=0.75).double()
    mean, var = np.zeros(5), np.ones(5)
    axes = (0, *range(2, len(shape)))
    for seed in range(3):
        x = random_input(*shape, seed=seed)
        module(x)
        mean = 0.75 * mean + 0.25 * x.numpy().mean(axes)
        var = 0.75 * var + 0.25 * x.numpy().var(axes)  # numpy divides by n
    np.testing.assert_allclose(module.moving_mean.flatten(), mean, rtol=1e-13)
    np.testing.assert_allclose(module.moving_var.flatten(), var, rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_eval_is_the_map_and_does_not_ask_for_grad(shape: tuple[int, ...]) -> None:
    numbers, x = hard_numbers(5), random_input(*shape)
    module = layer("custom", numbers, len(shape))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.enable_grad():
        with_grad = module(x).detach().numpy()
    assert np.array_equal(with_grad, output(module, x))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    magnitude = np.abs(numbers.affine().scale).max() * (
        np.abs(x.numpy()).max() + np.abs(numbers.running_mean).max()
    )
    np.testing.assert_allclose(
        with_grad, numbers.affine()(x.numpy()), rtol=0, atol=16 * np.finfo(float).eps * magnitude
    )


def test_a_new_layer_normalises_nothing_and_its_statistics_are_state() -> None:
    module = BatchNorm(3, 4, eps=0.0).eval()
    x = random_input(2, 3, 4, 4, dtype=torch.float32)
    assert torch.equal(module(x), x)
    assert sorted(module.state_dict()) == ["beta", "gamma", "moving_mean", "moving_var"]
    assert module.state_dict()["moving_var"].flatten().tolist() == [1.0, 1.0, 1.0]
    assert repr(module) == "BatchNorm(3, rank=4, eps=0.0, momentum=0.9)"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("rank", "shape"), [(2, (4, 3, 1, 1)), (4, (4, 3)), (2, (4, 2)), (4, (4, 1, 2, 2))])
def test_wrong_inputs_are_refused(training: bool, rank: int, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"takes rank {rank} with 3 channels"):
        BatchNorm(3, rank).train(training)(torch.zeros(shape))


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ModelError, match="rank 2 or 4, not 3"):
        BatchNorm(3, 3)


def test_a_subclass_is_another_layer() -> None:
    class Doubled(BatchNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    assert custom.matches(BatchNorm(2, 2))
    assert not custom.matches(Doubled(2, 2))
    assert not custom.matches(nn.BatchNorm2d(2))


def test_statistics_are_set_in_the_layers_own_type() -> None:
    module = BatchNorm(2, 4)
    custom.set_statistics(module, torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 4.0]).double())
    assert module.moving_mean.dtype is torch.float32
    assert module.moving_mean.shape == (1, 2, 1, 1)
    assert custom.params(module).running_var.tolist() == [3.0, 4.0]
