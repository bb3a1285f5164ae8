from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm import published
from bn_deploy.batchnorm.convert import convert
from bn_deploy.batchnorm.flavours import find
from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import Published, batch_norm, hard_numbers, layer, output, random_input, untouched


def live_network() -> nn.Sequential:
    """A network with the book's layers, as training leaves it: forward passes moved its statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3), Published(4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 5), Published(5, 2)
    ).double()
    for seed in range(3):
        network(random_input(6, 2, 5, 5, seed=seed))
    return network.eval()


def test_a_live_network_converts_and_folds_without_being_touched() -> None:
    network, x = live_network(), random_input(6, 2, 5, 5, seed=9)
    assert isinstance(network[1], Published)
    assert network[1].moving_mean.abs().min() > 0  # the training passes did move them
    assert "1.moving_mean" not in network.state_dict()
    expected = output(network, x)
    with untouched(network):
        converted, folded = convert(network), fold(network)
    assert [found.flavour.name for found in find(converted)] == ["torch", "torch"]
    assert [entry.flavour for entry in folded.report.folded] == ["published", "published"]
    # Sums of 36 terms and sigmoids near one, through statistics near one: a hundred roundings bound it.
    for network_after in (converted, folded.module):
        np.testing.assert_allclose(output(network_after, x), expected, rtol=0, atol=100 * np.finfo(float).eps)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("channels", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_numbers_are_the_layers_own(rank: int, channels: int, dtype: torch.dtype) -> None:
    module = layer("published", hard_numbers(channels), rank, dtype)
    with untouched(module):
        params = published.params(module)
    assert params.eps == 1e-5
    assert np.array_equal(params.running_var, module.moving_var.double().flatten())  # type: ignore[operator]


class Other(Published):
    """The same parts; the test says what is computed."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__(4, 4)
        self.beta.data += 0.5
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def formula(m: Any, x: Tensor, eps: float = 1e-5) -> Tensor:
    return batch_norm(x, m.gamma, m.beta, m.moving_mean, m.moving_var, eps, 0.1)[0]


def remembering(m: Any, x: Tensor) -> Tensor:
    y = formula(m, x)
    m.moving_mean = 0.9 * m.moving_mean + 0.1 * x.mean((0, 2, 3), keepdim=True)
    return y


def overwriting(m: Any, x: Tensor) -> Tensor:
    return x.sub_(m.moving_mean).div_(torch.sqrt(m.moving_var + 1e-5)).mul_(m.gamma).add_(m.beta)


def of_the_batch(m: Any, x: Tensor) -> Tensor:
    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, unbiased=False)
    return m.gamma * (x - mean) / torch.sqrt(var + 1e-5) + m.beta  # type: ignore[no-any-return]


def layer_norm(m: Any, x: Tensor) -> Tensor:
    return m.gamma * nn.functional.layer_norm(x, x.shape[1:]) + m.beta  # type: ignore[no-any-return]


def failing(m: Any, x: Tensor) -> Tensor:
    raise RuntimeError("only for pictures")


LOOK_ALIKES: dict[str, tuple[Callable[[Any, Tensor], Tensor], str]] = {
    "layer norm": (layer_norm, "for any usual eps"),
    "batch statistics in eval": (of_the_batch, "for any usual eps"),
    "another eps": (lambda m, x: formula(m, x, eps=2e-4), "for any usual eps"),
    "a clamp near zero": (lambda m, x: formula(m, x).clamp(-3, 3), "for any usual eps"),
    "a clamp far away": (lambda m, x: formula(m, x).clamp(-500, 500), "for any usual eps"),
    "a shrinking of small values": (
        lambda m, x: nn.functional.hardshrink(formula(m, x) - m.beta, 1e-2) + m.beta,
        "for any usual eps",
    ),
    "no shift": (lambda m, x: formula(m, x) - m.beta, "for any usual eps"),
    "moving its statistics in eval": (remembering, "for any usual eps"),
    "overwriting its input": (overwriting, "for any usual eps"),
    "another shape": (lambda m, x: formula(m, x)[:, :, ::2], "does not keep the shape"),
    "no tensor": (lambda m, x: (formula(m, x),), "does not keep the shape"),  # type: ignore[dict-item,return-value]
    "a failing forward": (failing, "a trial fails .RuntimeError: only for pictures"),
}


@pytest.mark.parametrize("eps", published.EPSILONS)
def test_every_usual_eps_is_found(eps: float) -> None:
    assert published.params(Other(lambda m, x: formula(m, x, eps)).eval()).eps == eps


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_look_alikes_are_refused_with_a_reason(name: str) -> None:
    compute, reason = LOOK_ALIKES[name]
    module = Other(compute)
    assert published.matches(module)
    with untouched(module), pytest.raises(ValueError, match=reason):
        published.params(module)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), module).eval()
    with untouched(network):
        result = fold(network)
        with pytest.raises(ModelError, match="batch norm 1: it has the textbook"):
            convert(network)
    assert not result.report.folded
    assert len(result.report.kept) == 1
    assert type(result.module.get_submodule("1")) is Other


def test_what_no_eps_mends_is_the_reason() -> None:
    module = Published(2, 2)
    module.moving_var[0, 1] = float("nan")
    with pytest.raises(ValueError, match="running_var is not finite in 1 channel"):
        published.params(module)


def with_part(name: str, value: object) -> nn.Module:
    module = Published(4, 4)
    delattr(module, name)
    setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    "module",
    [
        with_part("gamma", None),
        with_part("moving_var", [1.0] * 4),
        with_part("moving_mean", torch.zeros(1, 3, 1, 1)),
        with_part("beta", torch.zeros(4)),
        nn.LayerNorm(4),
    ],
)
def test_other_parts_are_another_layer(module: nn.Module) -> None:
    assert published.matches(Published(4, 4))
    assert not published.matches(module)


def test_a_layer_around_others_is_not_one() -> None:
    module = Published(4, 4)
    module.inner = nn.Conv2d(4, 4, 1)
    assert not published.matches(module)


def test_statistics_are_set_in_the_layers_own_type() -> None:
    module = Published(2, 4)
    published.set_statistics(module, torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 4.0]).double())
    assert module.moving_mean.dtype is torch.float32
    assert published.params(module).running_var.tolist() == [3.0, 4.0]
