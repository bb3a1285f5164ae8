"""Faults of every stage, each blamed on the step that made it; test_mutants.py has those of folding.

A fault stays in every form that is made from the faulty one, as it would.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bn_deploy.backends.base import Array
from bn_deploy.folding.modules.driver import fold
from bn_deploy.spec import Stage
from bn_deploy.verify.certify import NetworkCertifier
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Form, Reference
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.rerun import drawn, in_class, in_float64
from bn_deploy.verify.tolerance import number_class
from tests.lenets import form, garments
from tests.verify import random_folds
from tests.verify.test_false_alarms import running

IMAGES, LABELS = garments().test.images[:24], garments().test.labels[:24]
SHAPE = (1, 28, 28)
FP32 = number_class("fp32")


@cache
def evidence() -> Evidence:
    return Evidence(
        draws={"fp32": drawn(form(Stage.TRAINED), FP32, SHAPE)[:4]},
        certifiers={"onnx": NetworkCertifier(form(Stage.FOLDED), SHAPE, FP32)},
    )


def sound(stage: Stage) -> Reference:
    networks = {Stage.TRAINED: Stage.TRAINED, Stage.CONVERTED: Stage.CONVERTED, Stage.NATIVE: Stage.CONVERTED}
    return running(form(networks.get(stage, Stage.FOLDED)))


def judged(faulty: Stage | None, run: Reference | None) -> Parity:
    """All six forms; from the faulty one on, what is made of it is as faulty."""

    def derived(stage: Stage | None) -> bool:
        return stage is not None and (stage is faulty or derived(stage.parent))

    forms = [
        Form(stage.value, run if run is not None and derived(stage) else sound(stage), "fake", "fake", "fp32")
        for stage in Stage
    ]
    return compare(forms, in_float64(form(Stage.TRAINED)), IMAGES, LABELS, evidence=evidence())


class BatchStatistics(nn.Module):
    """A batch norm that normalises by the batch that it sees, as an export in training mode does."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        axes = [0, *range(2, x.dim())]
        shape = (1, -1, *[1] * (x.dim() - 2))
        centred = x - x.mean(axes).view(shape)
        scaled = centred / (centred.square().mean(axes) + self.norm.eps).sqrt().view(shape)
        return scaled * self.norm.weight.view(shape) + self.norm.bias.view(shape)


def in_training_mode() -> nn.Module:
    network = copy.deepcopy(form(Stage.CONVERTED))
    for name, module in network.named_children():
        if isinstance(module, _BatchNorm):
            setattr(network, name, BatchStatistics(module))
    return network


def always_one(run: Reference) -> Reference:
    """A graph made for one image, run image by image."""
    return lambda images: np.concatenate([run(images[i : i + 1]) for i in range(len(images))])


def changed(stage: Stage, change: Callable[[nn.Module], object]) -> Reference:
    network = copy.deepcopy(form(stage))
    with torch.no_grad():
        change(network)
    return running(network)


def _eps_doubled(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eps = 2e-5


def _stale(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            module.running_mean.mul_(1.001)


def _constant(images: Array) -> Array:
    return np.tile(sound(Stage.FOLDED)(images[:1]) * 0 + 0.5, (len(images), 1))


def _some_nan(images: Array) -> Array:
    logits = sound(Stage.FOLDED)(images)
    logits[images[:, 0, 14, 14] > 0.9, 3] = np.nan
    return logits


def _right_at_one(images: Array) -> Array:
    return np.tile(sound(Stage.FOLDED)(images[:1]), (len(images), 1))


FAULTS: dict[str, tuple[Stage, Callable[[], Reference]]] = {
    "TF32 in the trained network": (
        Stage.TRAINED,
        lambda: in_class(form(Stage.TRAINED), number_class("tf32"), SHAPE),
    ),
    "eps doubled in conversion": (
        Stage.CONVERTED,
        lambda: changed(Stage.CONVERTED, _eps_doubled),
    ),
    "stale statistics": (Stage.CONVERTED, lambda: changed(Stage.CONVERTED, _stale)),
    "batch-statistics graph": (Stage.NATIVE, lambda: running(in_training_mode())),
    "batch-1-constant graph": (Stage.NATIVE, lambda: always_one(running(in_training_mode()))),
    "TF32 compute": (Stage.ENGINE, lambda: in_class(form(Stage.FOLDED), number_class("tf32"), SHAPE)),
    "bf16 compute": (Stage.ENGINE, lambda: in_class(form(Stage.FOLDED), number_class("bf16"), SHAPE)),
    "fp16 compute": (Stage.ONNX, lambda: in_class(form(Stage.FOLDED), number_class("fp16"), SHAPE)),
    "weights in bf16": (
        Stage.ONNX,
        lambda: changed(Stage.FOLDED, lambda n: [p.copy_(p.bfloat16()) for p in n.parameters()]),
    ),
    "input not normalised": (Stage.ONNX, lambda: lambda x: sound(Stage.FOLDED)(x * 255)),
    "input transposed": (
        Stage.ONNX,
        lambda: lambda x: sound(Stage.FOLDED)(np.ascontiguousarray(x.swapaxes(2, 3))),
    ),
    "constant": (Stage.ENGINE, lambda: _constant),
    "NaN for some images": (Stage.ENGINE, lambda: _some_nan),
    "right at batch 1, wrong at n": (Stage.ENGINE, lambda: _right_at_one),
    "classes in another order": (
        Stage.ENGINE,
        lambda: lambda x: np.ascontiguousarray(sound(Stage.FOLDED)(x)[:, ::-1]),
    ),
}

STEPS = {
    Stage.TRAINED: "trained",
    Stage.CONVERTED: "trained/converted",
    Stage.NATIVE: "converted/native",
    Stage.ONNX: "folded/onnx",
    Stage.ENGINE: "onnx/engine",
}


def test_without_a_fault_nothing_fails() -> None:
    parity = judged(None, None)
    assert parity.failed is None
    assert [stage.stage for stage in parity.stages] == [stage.value for stage in Stage]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_rejected_and_blamed_on_its_stage(fault: str) -> None:
    stage, make = FAULTS[fault]
    parity = judged(stage, make())
    assert parity.failed == STEPS[stage]
    assert parity.exit_code == 1


@pytest.mark.parametrize(
    ("fault", "wires"),
    [
        ("batch-statistics graph", {"batch composition", "batch of one"}),
        ("batch-1-constant graph", {"constant"}),
        ("constant", {"constant"}),
        ("right at batch 1, wrong at n", {"batch of one", "place in the batch"}),
    ],
)
def test_the_tripwires_name_what_parity_alone_would_not(fault: str, wires: set[str]) -> None:
    stage, make = FAULTS[fault]
    assert wires <= {trip.wire for trip in judged(stage, make()).trips if trip.stage == stage.value}


# ---- folds that are only wrong in certain networks ----


def _numbers(norm: nn.Module) -> tuple[Tensor, Tensor]:
    assert isinstance(norm, _BatchNorm)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def _normed(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            assert tensor is not None
            tensor.normal_()
        assert norm.running_var is not None
        norm.running_var.uniform_(0.5, 2.0)
    return norm


def wrong_axis() -> tuple[nn.Module, nn.Module]:
    """The scale on the input channels of a convolution that has as many of them as outputs."""
    network = nn.Sequential(nn.Conv2d(4, 4, 3), _normed(4), nn.Flatten(), nn.Linear(64, 5)).eval()
    folded = fold(network).module
    conv, made = network[0], folded.get_submodule("0")
    assert isinstance(conv, nn.Conv2d)
    scale, _ = _numbers(network[1])
    with torch.no_grad():
        made.get_parameter("weight").copy_(conv.weight * scale.view(1, -1, 1, 1))
    return network, folded


def padded() -> tuple[nn.Module, nn.Module]:
    """A batch norm in the padded convolution after it, as if the border were normalised, too."""
    network = nn.Sequential(_normed(4), nn.Conv2d(4, 4, 3, padding=1), nn.Flatten(), nn.Linear(144, 5)).eval()
    conv = network[1]
    assert isinstance(conv, nn.Conv2d)
    scale, shift = _numbers(network[0])
    naive = copy.deepcopy(network)
    naive[0] = nn.Identity()
    with torch.no_grad():
        naive.get_parameter("1.weight").copy_(conv.weight * scale.view(1, -1, 1, 1))
        assert conv.bias is not None
        naive.get_parameter("1.bias").copy_(conv.bias + (conv.weight.sum((2, 3)) @ shift))
    return network, naive


class Shared(nn.Module):
    """A convolution that is used with and without the batch norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3), _normed(4), nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.conv(x))
        plain: Tensor = self.conv(x)
        return torch.relu(self.last((normed + torch.relu(plain)).flatten(1)))


def shared() -> tuple[nn.Module, nn.Module]:
    """Folded into the weights of both uses."""
    network = Shared().eval()
    naive = copy.deepcopy(network)
    scale, shift = _numbers(network.norm)
    naive.norm = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        naive.conv.weight.mul_(scale.view(-1, 1, 1, 1))
        assert naive.conv.bias is not None
        naive.conv.bias.mul_(scale).add_(shift)
    return network, naive


@pytest.mark.parametrize("make", [wrong_axis, padded, shared])
def test_a_naive_fold_is_rejected(make: Callable[[], tuple[nn.Module, nn.Module]]) -> None:
    torch.manual_seed(0)
    network, naive = make()
    network.requires_grad_(requires_grad=False)
    images = random_folds.images(0, 24).numpy()
    known = Evidence(draws={"fp32": drawn(network, FP32, random_folds.SHAPE)})
    forms = [
        Form(name, running(module), "torch", "eager", "fp32")
        for name, module in (("trained", network), ("converted", network), ("folded", naive))
    ]
    parity = compare(forms, in_float64(network), images, np.zeros(24, int), evidence=known)
    assert parity.failed == "converted/folded"
