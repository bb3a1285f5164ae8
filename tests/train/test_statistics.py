from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.batchnorm.flavours import find
from bn_deploy.errors import InputError, ModelError
from bn_deploy.model import NORMS, build
from bn_deploy.train.statistics import reestimate
from tests.lenets import garments, scale_and_shift

IMAGES = torch.from_numpy(garments().train.images[:60])


def network_of(norm: str, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("lenet", norm)
        scale_and_shift(network, torch.randn_like)
    assert isinstance(network, nn.Sequential)
    return network


def statistics(layer: nn.Module) -> tuple[Tensor, Tensor]:
    mean, var = (b for b in layer.buffers() if b.is_floating_point())
    return mean.flatten(), var.flatten()


@pytest.mark.parametrize("norm", NORMS)
def test_the_statistics_are_those_of_each_layers_input_with_all_before_it_final(norm: str) -> None:
    """The network is walked layer by layer over all images at once, with numpy's own mean and variance."""
    network = network_of(norm)
    assert reestimate(network, IMAGES, batch=25) == ["1", "5", "10", "13"]
    network.eval()
    x = IMAGES
    checked = 0
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, (BatchNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
                values = np.moveaxis(x.numpy().astype(np.float64), 1, 0).reshape(x.shape[1], -1)
                mean, var = statistics(layer)
                # Half an ulp of float32 for the one cast, and what another batch size does to x itself.
                scale = np.abs(values).max(1)
                assert np.abs(mean.numpy() - values.mean(1)).max() <= 2e-7 * scale.max()
                np.testing.assert_allclose(var.numpy(), values.var(axis=1, ddof=0), rtol=1e-5)
                checked += 1
            x = layer(x)
    assert checked == 4


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_the_batch_size_does_not_matter(norm: str, batch: int) -> None:
    one, other = network_of(norm), network_of(norm)
    reestimate(one, IMAGES, batch=60)
    reestimate(other, IMAGES, batch=batch)
    for a, b in zip(find(one), find(other), strict=True):
        for left, right in zip(statistics(a.module), statistics(b.module), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def test_values_far_from_zero_keep_their_variance() -> None:
    """E[x^2] - E[x]^2 in float64 would lose it: the mean is 1e9 standard deviations away."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(1e9 + rng.normal(size=(64, 3)))
    layer = nn.BatchNorm1d(3, dtype=torch.float64)
    reestimate(layer, x, batch=10)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    np.testing.assert_allclose(layer.running_mean.numpy(), x.numpy().mean(0), rtol=1e-15)
    np.testing.assert_allclose(layer.running_var.numpy(), x.numpy().var(0), rtol=1e-6)


def test_the_order_is_that_of_the_forward_not_of_the_attributes() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.BatchNorm1d(2)
            self.first = nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.second(self.first(x))
            return y

    network = Backwards()
    x = torch.tensor([[0.0, 10.0], [2.0, 30.0], [4.0, 20.0]])
    assert reestimate(network, x) == ["first", "second"]
    assert network.second.running_mean is not None
    torch.testing.assert_close(network.second.running_mean, torch.zeros(2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_each_part_is_restored(training: bool) -> None:
    network = network_of("custom").train(training)
    network[1].eval()  # frozen, as in fine-tuning
    before = [module.training for module in network.modules()]
    reestimate(network, IMAGES)
    assert [module.training for module in network.modules()] == before


def test_only_the_statistics_change() -> None:
    network = network_of("torch")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    reestimate(network, IMAGES)
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{i}.running_{what}" for i in (1, 5, 10, 13) for what in ("mean", "var")}
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(not module._forward_pre_hooks for module in network.modules())


class _Idle(nn.Module):
    """Has a batch norm that its forward never calls."""

    def __init__(self, idle: nn.Module) -> None:
        super().__init__()
        self.used = nn.BatchNorm1d(2)
        self.idle = idle

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.used(x)
        return y


@pytest.mark.parametrize("idle", [nn.BatchNorm1d(2), BatchNorm(2, 2)], ids=["torch", "custom"])
def test_a_batch_norm_that_is_never_reached_is_an_error(idle: nn.Module) -> None:
    network = _Idle(idle)
    with pytest.raises(ModelError, match=r"^batch norm idle was never reached; its statistics cannot be"):
        reestimate(network, torch.ones(4, 2))
    assert network.training
    assert not network.used._forward_pre_hooks


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: reestimate(nn.BatchNorm1d(2), torch.ones(0, 2)), InputError, "there are none"),
        (lambda: reestimate(nn.BatchNorm1d(2), torch.ones(3, 2), batch=0), InputError, "at least 1 row"),
        (
            lambda: reestimate(nn.BatchNorm1d(2, track_running_stats=False), torch.ones(3, 2)),
            ModelError,
            "has no statistics to set",
        ),
    ],
    ids=["no images", "no batch", "no statistics"],
)
def test_what_cannot_be_estimated_is_refused(
    call: Callable[[], object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        call()
