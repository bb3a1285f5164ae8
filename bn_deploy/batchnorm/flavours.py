"""The batch norms, as one table: those that are known, and last whatever behaves as one.

A flavour says how to recognise it, what it takes, which numbers it holds and how to set them. Everything else
(converting, re-estimating, folding) is written once, against this table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bn_deploy.batchnorm import custom, native, recognise
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.recognise import Recognised


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

RECOGNISED = Flavour(
    "recognised", recognise.matches, recognise.ranks, recognise.params, recognise.set_statistics
)

_KNOWN: tuple[Flavour, ...] = (
    NATIVE,
    Flavour("custom", custom.matches, custom.ranks, custom.params, custom.set_statistics),
)

BATCHNORMS: tuple[Flavour, ...] = (*_KNOWN, RECOGNISED)


def flavour_of(module: nn.Module) -> Flavour | None:
    """The flavour of `module`, or None if it is no batch norm."""
    return next((flavour for flavour in BATCHNORMS if flavour.matches(module)), None)


@dataclass(frozen=True)
class Found:
    """A batch norm in a network.

    Attributes:
        path: its first path.
        module: the layer.
        flavour: whose it is.
        proof: what was found out about one that is recognised by its behaviour, None for a known one.
    """

    path: str
    module: nn.Module
    flavour: Flavour
    proof: Recognised | None = None

    def params(self) -> BatchNormParams:
        """Its numbers, without proving again what it is.

        Raises:
            ValueError: they define no usable map; the text is fit for a report.
        """
        return self.flavour.params(self.module) if self.proof is None else self.proof.params

    def ranks(self) -> tuple[int, ...]:
        """The ranks of the inputs that it takes with its channels as axis 1."""
        return self.flavour.ranks(self.module) if self.proof is None else self.proof.ranks


def find(network: nn.Module) -> list[Found]:
    """Every batch norm in `network`, each object once, in the order of its modules."""
    everything = []
    for path, module in network.named_modules():
        flavour = next((flavour for flavour in _KNOWN if flavour.matches(module)), None)
        if flavour is not None:
            everything.append(Found(path, module, flavour))
        elif (proof := recognise.recognise(module)) is not None:
            everything.append(Found(path, module, RECOGNISED, proof))
    return everything


def suspects(network: nn.Module) -> list[tuple[str, str]]:
    """The path of every module that by its names is a batch norm, but is none, and the reason why not.

    Its class is called one or comes from torch's, or it holds a mean and a variance per channel.
    """
    return [
        (path, reason)
        for path, module in network.named_modules()
        if not any(flavour.matches(module) for flavour in _KNOWN)
        and (reason := recognise.why_not(module)) is not None
    ]
