"""Any flavour to torch's own batch norm, number by number; nothing else of the network changes.

Conversion comes before folding and export so that everything downstream meets a single batch norm.
"""

from __future__ import annotations

from torch import nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.flavours import NATIVE, Found, find
from bn_deploy.batchnorm.foreign import added_code, copied
from bn_deploy.batchnorm.last_axis import LastAxisBatchNorm
from bn_deploy.batchnorm.tensors import device_of, widest_dtype
from bn_deploy.errors import CheckFailed, ModelError


def convert(module: nn.Module) -> nn.Module:
    """A copy of `module` in which every batch norm is torch's own; the input is untouched.

    In eval mode the copy computes the same function. In training mode torch's layer averages the unbiased
    variance where the textbook's averages the biased one, and converted layers have torch's default momentum.
    What only looks like a batch norm stays as it is; `flavours.suspects` says why.

    Raises:
        ModelError: a batch norm's numbers define no usable map, or code was added to it that the copy would
            lack, or it is in a training mode that is not known, with its path and the reason; or the network
            cannot be copied.
        CheckFailed: a batch norm of another flavour is left, which would be a fault of this function.
    """
    network = copied(module)
    foreign = _foreign(network)
    network = _replace(network, {id(found.module): native_of(found) for found in foreign})
    if left := [found.path for found in _foreign(network)]:
        raise CheckFailed(f"not converted: {', '.join(left)}")
    return network


def _foreign(network: nn.Module) -> list[Found]:
    """The batch norms that are not torch's, nor the one that this package adds to them."""
    own = LastAxisBatchNorm
    return [f for f in find(network) if f.flavour is not NATIVE and type(f.module) is not own]


def native_of(found: Found) -> nn.Module:
    """The layer of torch for a batch norm of another flavour, its own numbers learned if those were.

    Raises:
        ModelError: there is none that does the same; the text names the batch norm and says why.
    """
    module, name = found.module, f"batch norm {found.path or '(the network itself)'}"
    if code := added_code(module):
        raise ModelError(f"{name} has {code}, which the converted layer would lack")
    if module.training and found.proof is not None and found.proof.names is None:
        raise ModelError(f"{name} is in training mode, but only its eval mode is known; call .eval() first")
    last = found.proof is not None and found.proof.takes_last_axis
    kind = LastAxisBatchNorm if last else native.kind_for(found.ranks())
    learned = any(parameter.requires_grad for parameter in module.parameters())
    try:
        layer = native.build(
            kind,
            found.params(),
            dtype=widest_dtype(module),
            device=device_of(module),
            training=module.training,
        )
    except ValueError as error:
        raise ModelError(f"{name}: {error}") from error
    return layer.requires_grad_(learned)


def _replace(network: nn.Module, by_id: dict[int, nn.Module]) -> nn.Module:
    """Puts each replacement wherever its original hangs: one that is shared stays shared."""
    if id(network) in by_id:
        return by_id[id(network)]
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in by_id:
                parent._modules[name] = by_id[id(child)]
    return network
