"""Re-estimates the statistics of batch norms: exactly, over given images, instead of a moving average.

With a large learning rate the moving average follows the last few batches: test accuracy jumps by up to
twenty points between epochs on weights that are fine. The exact statistics of some ten thousand training
images take that noise away (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.flavours import Found, find
from bn_deploy.data.batches import slices
from bn_deploy.errors import InputError, ModelError
from bn_deploy.spec import Track, silent


class _Moments:
    """Mean and biased variance per channel of batches (N, C, ...), accumulated in float64.

    Batches are merged pairwise (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
    variance", eq. 2.1), which does not cancel as E[x^2] - E[x]^2 does.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.square = torch.zeros((), dtype=torch.float64)

    def add(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Takes in what a batch norm is about to normalise; has the shape of a forward pre-hook."""
        rows = inputs[0].detach().double().transpose(0, 1).flatten(1)  # (C, values per channel)
        count = rows.shape[1]
        mean = rows.mean(1)
        square = ((rows - mean[:, None]) ** 2).sum(1)
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.square = self.square + square + delta**2 * (self.count * count / total)
        self.count = total

    def result(self, path: str) -> tuple[Tensor, Tensor]:
        """Mean and biased variance, (C,) each."""
        if not self.count:
            raise _unreached(path)
        return self.mean, self.square / self.count


@torch.no_grad()
def reestimate(network: nn.Module, images: Tensor, *, batch: int = 1000, track: Track = silent) -> list[str]:
    """Sets the statistics of every batch norm to the exact ones over `images`, (N, ...), in place.

    Batch norms are taken in the order in which the network reaches them: each is measured with all before
    it already final, so the result is what eval mode will see, and does not depend on `batch`, which only
    bounds memory. The mode of every part of the network is restored.

    Returns:
        The paths of the batch norms, in that order.

    Raises:
        InputError: there are no images, or `batch` is less than 1.
        ModelError: a batch norm is never reached, or keeps no statistics.
    """
    if not len(images):
        raise InputError("batch-norm statistics need images; there are none")
    parts = list(slices(len(images), batch))
    with evaluating(network):
        order = _order(network, images[:2])
        for found in track(order, "batch-norm statistics", len(order)):
            moments = _Moments()
            with found.module.register_forward_pre_hook(moments.add):
                for part in parts:
                    network(images[part])
            found.flavour.set_statistics(found.module, *moments.result(found.path))
    return [found.path for found in order]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts `network` in eval mode; afterwards each part of it is in the mode that it was in before."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _order(network: nn.Module, probe: Tensor) -> list[Found]:
    """The batch norms in the order in which a forward pass reaches them."""
    everything = find(network)
    position: dict[int, int] = {}

    def note(module: nn.Module, _: object) -> None:
        position.setdefault(id(module), len(position))

    with ExitStack() as hooks:
        for found in everything:
            hooks.enter_context(found.module.register_forward_pre_hook(note))
        network(probe)
    for found in everything:
        if id(found.module) not in position:
            raise _unreached(found.path)
    return sorted(everything, key=lambda found: position[id(found.module)])


def _unreached(path: str) -> ModelError:
    return ModelError(f"batch norm {path} was never reached; its statistics cannot be estimated")
