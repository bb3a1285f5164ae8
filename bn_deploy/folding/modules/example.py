"""Inputs for a network that came without: of some size that fits its first layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from bn_deploy.folding.modules.course import Inputs
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.modules.ranks import channel_counts
from bn_deploy.folding.outcome import Refusal

_SIZES = (32, 28, 64, 224, 16, 96, 128, 8, 48, 256, 299, 384, 512, 4, 1)
_MOST = 1 << 24
"""How many numbers an input may have: volumes have more than images."""


def examples_for(network: nn.Module) -> list[Inputs]:
    """Inputs that the forward of `network` takes, one for each rank if its first layer takes several.

    Raises:
        Refusal: none were found.
    """
    found: dict[int, Inputs] = {}
    for shape, options in _candidates(network):
        if len(shape) in found or prod(shape) > _MOST:
            continue
        given = [torch.ones(shape, **options)] * _required(network)
        if _runs(network, given):
            found[len(shape)] = tuple(given), {}
    if not found:
        raise Refusal("it is not known what inputs the network takes; give example_inputs")
    return list(found.values())


def _runs(network: nn.Module, given: list[Tensor]) -> bool:
    try:
        observe(network, (tuple(given), {}))  # which does not let it write to what it keeps
    except Unrun:
        return False
    except Refusal:
        return True
    return True


def _required(network: nn.Module) -> int:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(network.forward).parameters.values()
    return max(1, sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters))


def _candidates(network: nn.Module) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Shapes (N, C, ...) or (N, F) for the first layer with weights, and its type and device."""
    for module in network.modules():
        weight = getattr(module, "weight", None)  # some compute it, as weight norm does
        if not isinstance(weight, Tensor) or weight.dim() < 2:
            continue
        options: Any = {"dtype": weight.dtype, "device": weight.device}
        if isinstance(module, nn.Linear):
            features = weight.shape[1]
            yield (2, features), options
            # A batch norm after it takes axis 1 at every rank: as long as that, the network may take it too.
            for channels in channel_counts(network):
                yield (2, channels, features), options
            return
        taken = int(vars(module).get("in_channels", weight.shape[1]))
        for size in _SIZES:
            yield (2, taken, *[size] * (weight.dim() - 2)), options
        return
