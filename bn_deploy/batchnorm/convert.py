"""Any flavour to torch's own batch norm, number by number; nothing else of the network changes.

Conversion comes before folding and export so that everything downstream meets a single batch norm.
"""

from __future__ import annotations

from torch import nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.flavours import NATIVE, Found, find
from bn_deploy.batchnorm.foreign import added_code, copied
from bn_deploy.batchnorm.tensors import widest_dtype
from bn_deploy.errors import CheckFailed, ModelError


def convert(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every known batch norm is torch's own; the input is untouched.

    In eval mode the copy computes the same function. In training mode torch's layer averages the unbiased
    variance where the textbook's averages the biased one, and converted layers have torch's default momentum.

    Raises:
        ModelError: a batch norm's numbers define no usable map, or code was added to it that the copy would
            lack, with its path and the reason; or the network cannot be copied.
        CheckFailed: a batch norm of another flavour is left, which would be a fault of this function.
    """
    network = copied(module)
    foreign = [found for found in find(network) if found.flavour is not NATIVE]
    network = _replace(network, {id(found.module): _native(found) for found in foreign})
    if left := [found.path for found in find(network) if found.flavour is not NATIVE]:
        raise CheckFailed(f"not converted: {', '.join(left)}")
    return network


def _native(found: Found) -> nn.Module:
    """The layer of torch for a batch norm of another flavour."""
    module, name = found.module, f"batch norm {found.path or '(the network itself)'}"
    if code := added_code(module):
        raise ModelError(f"{name} has {code}, which the converted layer would lack")
    try:
        params = found.flavour.params(module)
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    (rank,) = found.flavour.ranks(module)  # a layer written for its shape takes one rank
    device = next(module.parameters()).device
    return native.build(
        params, rank=rank, dtype=widest_dtype(module), device=device, training=module.training
    )


def _replace(network: nn.Module, by_id: dict[int, nn.Module]) -> nn.Module:
    """Puts each replacement wherever its original hangs: one that is shared stays shared."""
    if id(network) in by_id:
        return by_id[id(network)]
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
    return network
