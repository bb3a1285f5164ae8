"""Makes the certifier of a torch network: the strict bound first, the first-order one where that is too wide.

The first-order bound costs one pass back through the network for each class; the strict one none. So the
expensive one is asked only about the images that the cheap one leaves open.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from bn_deploy.backends.base import Array
from bn_deploy.errors import ModelError
from bn_deploy.verify.bounds import first_order, missing, strict
from bn_deploy.verify.certificate import FIRST_ORDER, Certified
from bn_deploy.verify.program import capture
from bn_deploy.verify.tolerance import NumberClass


class NetworkCertifier:
    """Certifies the answers of any runtime that computes a network in a class of numbers.

    Args:
        network: the network, in eval mode, with one input and one output, logits (n, classes).
        shape: of one image.
        numbers: the class; it must be certifiable.
        method: STRICT stops at the strict bound.

    Raises:
        ModelError: the network cannot be followed, or an operator has no rounding rule; it is named.
    """

    def __init__(
        self, network: nn.Module, shape: tuple[int, ...], numbers: NumberClass, method: str = FIRST_ORDER
    ) -> None:
        self.method = method
        frozen = copy.deepcopy(network).double().requires_grad_(requires_grad=False)
        self._unit = numbers.unit
        self._program = capture(frozen, shape)
        if (reason := missing(self._program)) is not None:
            raise ModelError(reason)

    def __call__(self, images: Array) -> Certified:
        """What is known of images (n, ...)."""
        batch = torch.from_numpy(np.asarray(images, np.float64))
        logits, bound = strict(self._program, batch, self._unit)
        top = logits.argmax(dim=1, keepdim=True)
        lead = logits.gather(1, top) - logits  # 0 at the top itself
        reach = bound.gather(1, top) + bound
        reach.scatter_(1, top, 0.0)
        strictly = _leads(lead, reach, top)
        if self.method == FIRST_ORDER:
            self._narrow(batch, top, reach, strictly)
        lead.scatter_(1, top, torch.inf)
        nearest = (lead - reach).argmin(dim=1, keepdim=True)
        return Certified(
            logits=logits.numpy(),
            bound=bound.numpy(),
            margin=lead.gather(1, nearest)[:, 0].numpy(),
            reach=reach.gather(1, nearest)[:, 0].numpy(),
            strictly=strictly.numpy(),
            safe=_leads(lead, reach, top).numpy(),
        )

    def _narrow(self, batch: Tensor, top: Tensor, reach: Tensor, strictly: Tensor) -> None:
        """Replaces `reach` by the first-order bound for the images that are not proven yet."""
        left = torch.nonzero(~strictly)[:, 0]
        if len(left):
            narrow = first_order(self._program, batch[left], self._unit, top[left, 0])
            reach[left] = torch.minimum(reach[left], narrow)


def _leads(lead: Tensor, reach: Tensor, top: Tensor) -> Tensor:
    """Which images' first label leads each other by more than `reach`, (n,)."""
    return (lead > reach).scatter(1, top, value=True).all(dim=1)
