"""Bounds hold: whatever float32 does to these networks, it stays within what was said before."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from bn_deploy.errors import ModelError
from bn_deploy.verify.bounds import first_order, missing, strict
from bn_deploy.verify.program import capture
from bn_deploy.verify.rules import RULES
from tests.lenets import hard
from tests.verify import random_folds

UNIT = 2.0**-24


class Written(nn.Module):
    """A forward that is no chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(4, 3, 2, stride=2)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.last = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.conv(x), -x / (self.scale * self.scale + 1).sqrt()], dim=1)[:, 2:6]
        y = nn.functional.pad(torch.maximum(y, x.abs().clamp(max=1.5)), (1, 1, 0, 0))
        y = y * torch.rsqrt(y.square().mean(dim=(2, 3), keepdim=True) + 1e-5)
        y = self.up(y).exp().amax(dim=3)
        y = torch.stack([y.sum(dim=2), y.mean(dim=2), y[:, :, 0]], dim=1).flatten(1)
        logits: Tensor = self.last(nn.functional.leaky_relu(y - 0.5))
        return logits.softmax(dim=1)


ACTIVATIONS = {
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "leaky": nn.LeakyReLU(0.2),
    "silu": nn.SiLU(),
    "gelu": nn.GELU(),
    "elu": nn.ELU(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "max pool": nn.MaxPool2d(2),
    "average pool": nn.AvgPool2d(2, padding=1),
    "adaptive pool": nn.AdaptiveAvgPool2d(4),
}


def _with(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    random_folds.harden(norm)
    head = nn.Sequential(nn.Conv2d(4, 6, 3), norm, copy.deepcopy(layer), nn.Flatten())
    width = head.eval()(torch.zeros(2, *random_folds.SHAPE)).shape[1]
    return nn.Sequential(*head, nn.Linear(width, 5)).eval()


def _written() -> nn.Module:
    torch.manual_seed(1)
    return Written().eval()


NETWORKS = {name: _with(layer) for name, layer in ACTIVATIONS.items()} | {"written": _written()}


def _wide(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).double().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_float32_stays_within_both_bounds(name: str) -> None:
    network, images = NETWORKS[name], random_folds.images(7, 40)
    program = capture(_wide(network), random_folds.SHAPE)
    with torch.no_grad():
        measured, exact = network(images).double(), _wide(network)(images.double())
    logits, bound = strict(program, images.double(), UNIT)
    assert torch.allclose(logits, exact, rtol=1e-12, atol=1e-12)
    assert ((measured - exact).abs() <= bound).all()
    top = exact.argmax(dim=1)
    reach = first_order(program, images.double(), UNIT, top)
    lead = [t.gather(1, top[:, None]) - t for t in (measured, exact)]
    assert ((lead[0] - lead[1]).abs() <= reach).all()
    assert (reach.gather(1, top[:, None]) == 0).all()
    assert (
        reach <= 1.01 * (bound + bound.gather(1, top[:, None]))
    ).all()  # it neglects, and takes no detours


@pytest.mark.parametrize("seed", range(4))
def test_both_bounds_hold_for_lenets_of_hard_statistics(seed: int) -> None:
    network = hard(seed)
    images = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    program = capture(_wide(network), (1, 28, 28))
    logits, bound = strict(program, images.double(), UNIT)
    with torch.no_grad():
        assert ((network(images).double() - logits).abs() <= bound).all()


@pytest.mark.parametrize("rows", [1, 2, 3, 17])
def test_a_program_runs_for_any_batch(rows: int) -> None:
    network = _written()
    images = random_folds.images(3, rows).double()
    logits, _ = strict(capture(_wide(network), random_folds.SHAPE), images, UNIT)
    with torch.no_grad():
        assert torch.allclose(logits, _wide(network)(images), rtol=1e-12, atol=1e-12)


def test_a_bound_grows_with_the_unit_and_ends_where_its_formula_does() -> None:
    program = capture(_wide(NETWORKS["relu"]), random_folds.SHAPE)
    images = random_folds.images(1, 5).double()
    bounds = [strict(program, images, unit)[1] for unit in (2.0**-30, 2.0**-24, 2.0**-11)]
    assert (bounds[0] < bounds[1]).all()
    assert (bounds[1] < bounds[2]).all()
    with pytest.raises(ModelError, match=r"^n u >= 1 for \d+ terms"):
        strict(program, images, 2.0**-4)


class Erf(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.erf(x)
        return y.flatten(1)


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).t().contiguous().t()


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(dim=0)).flatten(1)


class Counting(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) / (2.0 * len(x))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Turned(), "t moves the batch away from the first axis"),
        (Mixed(), "mean moves the batch away from the first axis"),
        (Counting(), "div computes with the batch size"),
        (nn.LSTM(6, 5, batch_first=True), "cannot be followed|one input and one output"),
    ],
)
def test_what_cannot_be_followed_is_refused(network: nn.Module, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        capture(network.double().eval(), random_folds.SHAPE)


def test_an_operator_without_a_rule_is_named() -> None:
    program = capture(Erf().double(), random_folds.SHAPE)
    assert missing(program) == "no rounding rule for erf"
    with pytest.raises(ModelError, match=r"^no rounding rule for erf$"):
        strict(program, random_folds.images(0, 2).double(), UNIT)


@pytest.mark.parametrize(
    ("op", "reason"),
    [
        ("add", "alpha"),
        ("div", "rounds to integers"),
        ("native_batch_norm", "training mode"),
    ],
)
def test_a_rule_refuses_what_it_does_not_understand(op: str, reason: str) -> None:
    class One(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if op == "add":
                return torch.add(x, x, alpha=2).flatten(1)
            if op == "div":
                return torch.div(x, 3.0, rounding_mode="floor").flatten(1)
            return nn.functional.batch_norm(x, None, None, training=True).flatten(1)

    program = capture(One().double(), random_folds.SHAPE)
    assert program.steps[0].op in RULES
    with pytest.raises(ModelError, match=reason):
        strict(program, random_folds.images(0, 2).double(), UNIT)
