"""Networks that bn-deploy can train and rebuild from a checkpoint: two tables, models and norm layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.errors import InputError
from bn_deploy.model.lenet import NormFactory, lenet
from bn_deploy.spec import TensorSpec


@dataclass(frozen=True)
class Model:
    """One row of the table.

    Attributes:
        name: what the user types.
        build: makes the network, given what makes its norm layers.
        inputs, outputs: what goes in and out of it.
    """

    name: str
    build: Callable[[NormFactory], nn.Module]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


MODELS: tuple[Model, ...] = (
    Model(
        "lenet",
        lenet,
        inputs=(TensorSpec("image", (None, 1, 28, 28), "float32"),),
        outputs=(TensorSpec("logits", (None, 10), "float32"),),
    ),
)


def _native(channels: int, rank: int) -> nn.Module:
    return nn.BatchNorm1d(channels) if rank == 2 else nn.BatchNorm2d(channels)


NORMS: dict[str, NormFactory] = {
    "custom": BatchNorm,
    "torch": _native,
}
"""The norm layers that a model can be built with, by what the user types."""


def model(name: str) -> Model:
    """The row called `name`.

    Raises:
        InputError: there is none.
    """
    for row in MODELS:
        if row.name == name:
            return row
    raise InputError(f"unknown model {name!r}; there are {', '.join(row.name for row in MODELS)}")


def norm_factory(name: str) -> NormFactory:
    """The norm layer called `name`.

    Raises:
        InputError: there is none.
    """
    if name not in NORMS:
        raise InputError(f"unknown norm {name!r}; there are {', '.join(NORMS)}")
    return NORMS[name]


def build(name: str, norm: str) -> nn.Module:
    """A new network with PyTorch's default initialisation.

    Raises:
        InputError: there is no such model or norm layer.
    """
    return model(name).build(norm_factory(norm))
