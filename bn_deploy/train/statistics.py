"""Re-estimates the statistics of batch norms: exactly, over given images, instead of a moving average.

With a large learning rate the moving average follows the last few batches: test accuracy jumps by up to
twenty points between epochs on weights that are fine. The exact statistics of some ten thousand training
images take that noise away (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", section 3).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.flavours import Found, find
from bn_deploy.errors import ModelError
from bn_deploy.spec import Track, silent


class _Moments:
    """Mean and biased variance per channel of batches (N, C, ...), accumulated in float64.

    Batches are merged pairwise (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
    variance", eq. 2.1), which does not cancel as E[x^2] - E[x]^2 does.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.square: Tensor | None = None

    def add(self, x: Tensor) -> None:
        rows = x.detach().double().transpose(0, 1).flatten(1)  # (C, values per channel)
        count = rows.shape[1]
        mean = rows.mean(1)
        square = ((rows - mean[:, None]) ** 2).sum(1)
        if self.mean is None or self.square is None:
            self.count, self.mean, self.square = count, mean, square
            return
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.square = self.square + square + delta**2 * (self.count * count / total)
        self.count = total

    def result(self, path: str) -> tuple[Tensor, Tensor]:
        if self.mean is None or self.square is None:
            raise ModelError(f"batch norm {path} was never reached; its statistics cannot be estimated")
        return self.mean, self.square / self.count


@torch.no_grad()
def reestimate(
    network: nn.Module, images: Tensor, *, batch: int = 1000, track: Track = silent
) -> list[str]:
    """Sets the statistics of every batch norm to the exact ones over `images`, (N, ...), in place.

    Batch norms are taken in the order in which the network reaches them: each is measured with all before
    it already final, so the result is what eval mode will see, and does not depend on `batch`, which only
    bounds memory. The network's mode is restored.

    Returns:
        The paths of the batch norms, in that order.

    Raises:
        ModelError: a batch norm is never reached, or keeps no statistics.
    """
    was_training = network.training
    network.eval()
    try:
        order = _order(network, images[:2])
        for found in track(order, "batch-norm statistics", len(order)):
            moments = _Moments()
            with _listening(found.module, lambda x, seen=moments: seen.add(x)):  # type: ignore[misc]
                for start in range(0, len(images), batch):
                    network(images[start : start + batch])
            found.flavour.set_statistics(found.module, *moments.result(found.path))
        return [found.path for found in order]
    finally:
        network.train(was_training)


def _listening(module: nn.Module, hear: Callable[[Tensor], None]) -> Any:
    """Calls `hear` with each input of `module` while the returned handle is entered."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        hear(inputs[0])

    return module.register_forward_pre_hook(hook)


def _order(network: nn.Module, probe: Tensor) -> list[Found]:
    """The batch norms in the order in which a forward pass reaches them."""
    everything = find(network)
    reached: list[str] = []
    handles = [_listening(f.module, lambda _, path=f.path: reached.append(path)) for f in everything]  # type: ignore[misc]
    try:
        network(probe)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [f.path for f in everything if f.path not in reached]:
        raise ModelError(f"batch norm {missing[0]} was never reached; its statistics cannot be estimated")
    return sorted(everything, key=lambda f: reached.index(f.path))
