"""PyTorch's own batch norm as one flavour among others, and the form that all others are converted to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.tensors import to_vector
from bn_deploy.errors import ModelError

NATIVE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_RANKS: dict[type[nn.modules.batchnorm._BatchNorm], tuple[int, ...]] = {
    nn.BatchNorm1d: (2, 3),
    nn.BatchNorm2d: (4,),
    nn.BatchNorm3d: (5,),
    nn.SyncBatchNorm: (2, 3, 4, 5),
}


def matches(module: nn.Module) -> bool:
    """Whether `module` is torch's layer; a subclass may compute something else and is not."""
    return type(module) in NATIVE


def is_relative(module: nn.Module) -> bool:
    """Whether `module` is a subclass of torch's layer: a batch norm by descent, and not by proof."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and not matches(module)


def ranks(module: nn.Module) -> tuple[int, ...]:
    """The ranks of the inputs that the layer takes."""
    return next(takes for kind, takes in _RANKS.items() if type(module) is kind)


def params(module: nn.Module) -> BatchNormParams:
    """The layer's numbers; an absent weight is ones, an absent bias zeros.

    Raises:
        ValueError: it keeps no statistics, or they define no usable map; the text says why.
    """
    assert isinstance(module, NATIVE)  # noqa: S101 - narrows the type for what `matches` has checked
    if module.running_mean is None or module.running_var is None:
        raise ValueError(
            "it keeps no running statistics (track_running_stats=False), so its output depends on the batch"
        )
    mean = to_vector(module.running_mean)
    weight = torch.ones(mean.size) if module.weight is None else module.weight
    bias = torch.zeros(mean.size) if module.bias is None else module.bias
    return BatchNormParams(
        to_vector(weight), to_vector(bias), mean, to_vector(module.running_var), module.eps
    )


def set_statistics(module: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Replaces the statistics by `mean` and biased `var`, (C,) each, cast to the layer's own type."""
    assert isinstance(module, NATIVE)  # noqa: S101 - narrows the type for what `matches` has checked
    if module.running_mean is None or module.running_var is None:
        raise ModelError("a batch norm with track_running_stats=False has no statistics to set")
    module.running_mean.copy_(mean)
    module.running_var.copy_(var)


def kind_for(ranks: tuple[int, ...]) -> type[nn.modules.batchnorm._BatchNorm]:
    """The layer of torch for inputs of all `ranks`; that which takes any is called SyncBatchNorm.

    In eval mode, and in training outside of a process group, it synchronises nothing.
    """
    return next(kind for kind, takes in _RANKS.items() if set(ranks) <= set(takes))


def build(
    kind: type[nn.modules.batchnorm._BatchNorm],
    source: BatchNormParams,
    *,
    dtype: torch.dtype,
    device: torch.device,
    training: bool,
) -> nn.Module:
    """The layer of torch with the numbers of `source`.

    Args:
        kind: which layer.
        source: the numbers; each is cast once, to `dtype`.
        dtype: the type of the new layer's numbers.
        device: where they are put.
        training: the mode the layer is left in.

    Raises:
        ValueError: a number is too large for `dtype`.
    """
    layer = kind(source.channels, eps=source.eps, dtype=dtype, device=device)
    assert layer.running_mean is not None  # noqa: S101 - a layer made with its defaults tracks statistics
    assert layer.running_var is not None  # noqa: S101 - likewise
    given = (source.weight, source.bias, source.running_mean, source.running_var)
    new = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    with torch.no_grad():
        for tensor, values in zip(new, given, strict=True):
            tensor.copy_(torch.from_numpy(values))
            if not torch.isfinite(tensor).all():
                raise ValueError(f"its numbers overflow {str(dtype).removeprefix('torch.')}")
    return layer.train(training)
