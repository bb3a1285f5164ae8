"""LeNets that tests share: made once a session, in memory, from fixed seeds.

A folder of tests takes `one_thread` by importing it in its conftest.py.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.backends.base import Array
from bn_deploy.backends.pytorch import TorchNetwork
from bn_deploy.batchnorm.convert import convert
from bn_deploy.batchnorm.flavours import find
from bn_deploy.data import synthetic
from bn_deploy.data.dataset import Dataset
from bn_deploy.exporting.onnx_file import export
from bn_deploy.folding.modules.driver import fold
from bn_deploy.model import build, model
from bn_deploy.spec import Stage

LENET = model("lenet")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """LeNet is so small that on a busy machine threads wait for each other longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def garments() -> Dataset:
    """300 images to learn from and 300 to be judged by."""
    return synthetic.make(300, 300)


@cache
def trained(norm: str = "custom") -> nn.Module:
    """As if trained: random scales and shifts, and the statistics of real activations."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = build("lenet", norm)
        scale_and_shift(network, lambda like: 1 + 0.5 * torch.randn_like(like))
    for found in find(network):
        # One training step then leaves the batch's statistics: each flavour counts momentum its own way.
        found.module.momentum = 1.0 if found.flavour.name == "torch" else 0.0  # type: ignore[assignment]
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(garments().train.images))
    return network.eval()


def hard(seed: int) -> nn.Module:
    """Variances from 1e-8 to 1e4, and scales of which one is zero and one negative in each layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build("lenet", "custom").eval()
        scale_and_shift(network, torch.randn_like)
        with torch.no_grad():
            for found in find(network):
                layer = found.module
                assert isinstance(layer.moving_mean, Tensor)
                assert isinstance(layer.moving_var, Tensor)
                layer.moving_var.copy_(10 ** (12 * torch.rand_like(layer.moving_var) - 8))
                layer.moving_mean.copy_(torch.randn_like(layer.moving_mean) * layer.moving_var.sqrt())
    return network


def scale_and_shift(network: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    """Random numbers for every batch norm, the first scale zero and the second negative."""
    for found in find(network):
        parameters = list(found.module.parameters())
        with torch.no_grad():
            for parameter in parameters:
                parameter.copy_(draw(parameter))
            scale = parameters[0].view(-1)
            scale[0], scale[1] = 0.0, -scale[1].abs()


@cache
def form(stage: Stage) -> nn.Module:
    """The trained LeNet in one of its torch forms."""
    if stage is Stage.TRAINED:
        return trained()
    if stage is Stage.CONVERTED:
        return convert(trained())
    return fold(form(Stage.CONVERTED)).module


@cache
def onnx_bytes(stage: Stage) -> bytes:
    """The ONNX file of one of the torch forms."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        metadata = {"bn_deploy.version": "1.2.3", "bn_deploy.model": "lenet"}
        export(form(stage), path, inputs=LENET.inputs, outputs=LENET.outputs, metadata=metadata)
        return path.read_bytes()


def bounded(network: nn.Module) -> TorchNetwork:
    """The network with LeNet's inputs and outputs."""
    return TorchNetwork(network, LENET.inputs, LENET.outputs)


def float64(network: nn.Module) -> Callable[[Array], Array]:
    """The network's own computation in float64: images (N, 1, 28, 28) -> logits (N, 10)."""
    exact = copy.deepcopy(network).double()

    def run(images: Array) -> Array:
        with torch.no_grad():
            logits: Array = exact(torch.from_numpy(images.astype(np.float64))).numpy()
        return logits

    return run
