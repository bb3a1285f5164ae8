"""The batch norms that are known, as one table.

A flavour says how to recognise it, what it takes, which numbers it holds and how to set them. Everything else
(converting, re-estimating, folding) is written once, against this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bn_deploy.batchnorm import custom, native, published
from bn_deploy.batchnorm.params import BatchNormParams


@dataclass(frozen=True)
class Flavour:
    """One implementation of batch norm.

    Attributes:
        name: how reports call it.
        matches: whether a module is of this flavour.
        ranks: the ranks of the inputs that a module takes, batch axis included.
        params: a module's numbers; ValueError with a reason fit for a report if they define no usable map.
        set_statistics: replaces mean and biased variance, (C,) each.
    """

    name: str
    matches: Callable[[nn.Module], bool]
    ranks: Callable[[nn.Module], tuple[int, ...]]
    params: Callable[[nn.Module], BatchNormParams]
    set_statistics: Callable[[nn.Module, Tensor, Tensor], None]


NATIVE = Flavour("torch", native.matches, native.ranks, native.params, native.set_statistics)

BATCHNORMS: tuple[Flavour, ...] = (
    NATIVE,
    Flavour("custom", custom.matches, custom.ranks, custom.params, custom.set_statistics),
    Flavour("published", published.matches, published.ranks, published.params, published.set_statistics),
)


def flavour_of(module: nn.Module) -> Flavour | None:
    """The flavour of `module`, or None if it is no batch norm that is known."""
    return next((flavour for flavour in BATCHNORMS if flavour.matches(module)), None)


@dataclass(frozen=True)
class Found:
    """A batch norm in a network: its first path, the module, and its flavour."""

    path: str
    module: nn.Module
    flavour: Flavour


def find(network: nn.Module) -> list[Found]:
    """Every batch norm in `network`, each object once, in the order of its modules."""
    return [
        Found(path, module, flavour)
        for path, module in network.named_modules()
        if (flavour := flavour_of(module)) is not None
    ]
