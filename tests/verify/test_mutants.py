"""The comparison sees every fault that folding could have, and none where there is none.

Each mutant is the correct fold of a LeNet with one fault in one layer. The statistics are those of real
activations, with variances from 0.001 to 0.2: there leaving out eps = 1e-5 changes the scales by 0.003 % to
0.4 %. (At a variance of 1e4 it would change nothing in float32, and be no fault.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.backends.pytorch import TorchRunner
from bn_deploy.batchnorm.flavours import find
from bn_deploy.spec import Stage
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Reference
from bn_deploy.verify.evidence import form as running_form
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.rerun import drawn
from bn_deploy.verify.tolerance import number_class
from tests.lenets import bounded, float64, form, garments

IMAGES = garments().test.images[:40]
LABELS = garments().test.labels[:40]

PAIRS = ((0, 1), (4, 5), (9, 10), (12, 13))
"""Each batch norm of LeNet after the layer that takes it in."""


class Numbers:
    """What folding one pair works with, (C,) each, in float64."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        self.weight, self.bias = (p.detach().double() for p in layer.parameters())
        self.gamma, self.beta = (p.detach().double() for p in norm.parameters())
        self.mean, self.var = (b.double() for b in norm.buffers() if b.is_floating_point())
        self.eps = 1e-5

    def scale(self) -> Tensor:
        return self.gamma / torch.sqrt(self.var + self.eps)

    def shift(self) -> Tensor:
        return self.beta - self.mean * self.scale()


Fold = Callable[[Numbers], tuple[Tensor, Tensor]]
"""Numbers -> what multiplies the weights, (C,), and the new bias, (C,)."""


def correct(n: Numbers) -> tuple[Tensor, Tensor]:
    return n.scale(), n.bias * n.scale() + n.shift()


def with_numbers(change: Callable[[Numbers], object]) -> Fold:
    """The correct formula on wrong numbers."""

    def mutant(n: Numbers) -> tuple[Tensor, Tensor]:
        change(n)
        return correct(n)

    return mutant


def _swap(n: Numbers) -> None:
    n.gamma, n.beta = n.beta, n.gamma


def _untrained(n: Numbers) -> None:
    n.mean, n.var = torch.zeros_like(n.mean), torch.ones_like(n.var)


def _without(channels: Tensor) -> Tensor:
    return channels.index_fill(0, torch.tensor([2]), 0.0)


FORMULAS: dict[str, Fold] = {
    "eps omitted": with_numbers(lambda n: setattr(n, "eps", 0.0)),
    "eps doubled": with_numbers(lambda n: setattr(n, "eps", 2e-5)),
    "eps after the root": lambda n: (
        n.gamma / (n.var.sqrt() + n.eps),
        (n.bias - n.mean) * n.gamma / (n.var.sqrt() + n.eps) + n.beta,
    ),
    "variance taken for a deviation": with_numbers(lambda n: setattr(n, "var", n.var**2)),
    "deviation taken for a variance": with_numbers(lambda n: setattr(n, "var", n.var.sqrt())),
    "variance of 256 made unbiased": with_numbers(lambda n: setattr(n, "var", n.var * 256 / 255)),
    "scale off by 1 %": lambda n: (1.01 * n.scale(), correct(n)[1]),
    "scale of the next channel": lambda n: (n.scale().roll(1), correct(n)[1]),
    "scale's sign lost": with_numbers(lambda n: setattr(n, "gamma", n.gamma.abs())),
    "shift dropped": lambda n: (n.scale(), n.bias * n.scale()),
    "beta dropped": with_numbers(lambda n: n.beta.zero_()),
    "bias ignored": lambda n: (n.scale(), n.shift()),
    "bias not scaled": lambda n: (n.scale(), n.bias + n.shift()),
    "mean added": with_numbers(lambda n: n.mean.neg_()),
    "gamma and beta swapped": with_numbers(_swap),
    "statistics of an untrained layer": with_numbers(_untrained),
    "mean one percent stale": with_numbers(lambda n: n.mean.mul_(1.01)),
    "one channel zeroed": lambda n: (_without(n.scale()), _without(correct(n)[1])),
}


def refold(pair: tuple[int, int], formula: Fold) -> nn.Module:
    """The folded LeNet, with one pair folded by another formula."""
    converted, mutant = form(Stage.CONVERTED), copy.deepcopy(form(Stage.FOLDED))
    before, norm = (converted.get_submodule(str(i)) for i in pair)
    numbers = Numbers(before, norm)
    scale, bias = formula(numbers)
    with torch.no_grad():
        weight = mutant.get_parameter(f"{pair[0]}.weight")
        weight.copy_(numbers.weight * scale.reshape(-1, *[1] * (weight.dim() - 1)))
        mutant.get_parameter(f"{pair[0]}.bias").copy_(bias)
    return mutant


def _bf16(folded: nn.Module) -> None:
    folded.get_parameter("9.weight").copy_(folded.get_parameter("9.weight").bfloat16())


def _fp16(folded: nn.Module) -> None:
    folded.get_parameter("0.weight").copy_(folded.get_parameter("0.weight").half())


def _one_weight(folded: nn.Module) -> None:
    """The median of 30 720: neither one that dominates nor one that is nothing."""
    weight = folded.get_parameter("9.weight").view(-1)
    weight[weight.abs().argsort()[len(weight) // 2]] *= 1.01


def _transposed(folded: nn.Module) -> None:
    """As if the 16 channels of 4 x 4 places had been flattened place by place."""
    weight = folded.get_parameter("9.weight")
    weight.copy_(weight.view(120, 16, 16).transpose(1, 2).reshape(120, 256))


def _after_the_activation(folded: nn.Module) -> None:
    """The last batch norm in the weights of the layer after its sigmoid instead of before it."""
    converted = form(Stage.CONVERTED)
    numbers = Numbers(converted.get_submodule("12"), converted.get_submodule("13"))
    for name in ("12.weight", "12.bias"):
        folded.get_parameter(name).copy_(converted.get_parameter(name))
    weight, bias = folded.get_parameter("15.weight"), folded.get_parameter("15.bias")
    bias.add_(weight @ numbers.shift().float())
    weight.mul_(numbers.scale().float())


def _left_out(folded: nn.Module) -> None:
    """The second batch norm gone, and nothing in its place."""
    for name in ("4.weight", "4.bias"):
        folded.get_parameter(name).copy_(form(Stage.CONVERTED).get_parameter(name))


def _twice(folded: nn.Module) -> None:
    converted = form(Stage.CONVERTED)
    numbers = Numbers(converted.get_submodule("9"), converted.get_submodule("10"))
    folded.get_parameter("9.weight").mul_(numbers.scale().float()[:, None])


EDITS: dict[str, Callable[[nn.Module], None]] = {
    "weights rounded to bf16": _bf16,
    "weights of six filters rounded to fp16": _fp16,
    "one weight off by 1 %": _one_weight,
    "flatten transposed": _transposed,
    "folded after the activation": _after_the_activation,
    "a batch norm left out": _left_out,
    "scaled twice": _twice,
}


@cache
def reference() -> Reference:
    return float64(form(Stage.TRAINED))


@cache
def drawn_runs() -> tuple[Reference, ...]:
    """Half of the usual number: the gate is then rather narrower."""
    return drawn(form(Stage.TRAINED), number_class("fp32"), (1, 28, 28))[:4]


def judged(folded: nn.Module) -> Parity:
    networks = (form(Stage.TRAINED), form(Stage.CONVERTED), folded)
    running = [
        running_form(stage, TorchRunner(bounded(network), threads=1))
        for stage, network in zip((Stage.TRAINED, Stage.CONVERTED, Stage.FOLDED), networks, strict=True)
    ]
    known = Evidence(draws={"fp32": drawn_runs()})
    return compare(running, reference(), IMAGES, LABELS, evidence=known)


def test_the_statistics_are_such_that_the_faults_matter() -> None:
    smallest, largest = np.inf, 0.0
    for found in find(form(Stage.CONVERTED)):
        params = found.flavour.params(found.module)
        assert (params.weight == 0).any()
        assert (params.weight < 0).any()
        smallest = min(smallest, float(params.running_var.min()))
        largest = max(largest, float(params.running_var.max()))
    assert 1e-3 < smallest < largest < 0.2


def test_the_correct_fold_passes() -> None:
    assert judged(form(Stage.FOLDED)).failed is None


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"batch norm {pair[1]}")
def test_the_correct_formula_passes_for_each_layer(pair: tuple[int, int]) -> None:
    """What the mutants are changed from is itself without fault, so each fails for its own fault only."""
    assert judged(refold(pair, correct)).failed is None


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"batch norm {pair[1]}")
@pytest.mark.parametrize("fault", FORMULAS)
def test_a_wrong_formula_is_seen_and_blamed_on_folding(fault: str, pair: tuple[int, int]) -> None:
    parity = judged(refold(pair, FORMULAS[fault]))
    assert parity.failed == "converted/folded"
    assert parity.exit_code == 1


@pytest.mark.parametrize("fault", EDITS)
def test_wrong_weights_are_seen_and_blamed_on_folding(fault: str) -> None:
    mutant = copy.deepcopy(form(Stage.FOLDED))
    with torch.no_grad():
        EDITS[fault](mutant)
    parity = judged(mutant)
    assert parity.failed == "converted/folded"
