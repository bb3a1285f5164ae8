"""Any flavour to torch's own batch norm, number by number; nothing else of the network changes.

Conversion comes before folding and export so that everything downstream meets a single batch norm.
"""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.flavours import NATIVE, find
from bn_deploy.errors import CheckFailed, ModelError


def convert(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every known batch norm is torch's own; the input is untouched.

    In eval mode the copy computes the same function. In training mode torch's layer averages the unbiased
    variance where the textbook's averages the biased one, and converted layers have torch's default momentum.

    Raises:
        ModelError: a batch norm's numbers define no usable map, with its path and the reason.
        CheckFailed: a batch norm of another flavour is left, which would be a fault of this function.
    """
    network = copy.deepcopy(module)
    replaced: dict[int, nn.Module] = {}
    for found in find(network):
        if found.flavour is not NATIVE:
            try:
                params = found.flavour.params(found.module)
            except ValueError as error:
                raise ModelError(f"batch norm {found.path or '(the network itself)'}: {error}") from error
            gamma = found.module.gamma
            assert isinstance(gamma, Tensor)  # noqa: S101 - both hand-written flavours have it, or did not match
            replaced[id(found.module)] = native.build(
                params, rank=gamma.dim(), like=gamma, training=found.module.training
            )
    network = _replace(network, replaced)
    if left := [found.path for found in find(network) if found.flavour is not NATIVE]:
        raise CheckFailed(f"not converted: {', '.join(left)}")
    return network


def _replace(network: nn.Module, by_id: dict[int, nn.Module]) -> nn.Module:
    """Puts each replacement wherever its original hangs: one that is shared stays shared."""
    if id(network) in by_id:
        return by_id[id(network)]
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
    return network
