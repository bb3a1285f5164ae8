"""The hand-written batch norm of the textbook "Dive into Deep Learning", with its published faults mended."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.tensors import to_vector
from bn_deploy.errors import ModelError


class BatchNorm(nn.Module):
    """Batch normalization over axis 1, written out (d2l.ai, chapter 8.5, "Implementation from Scratch").

    Training, with the mean and the *biased* variance taken over all axes but 1 of the batch at hand:

        y = gamma * (x - mean) / sqrt(var + eps) + beta
        moving = momentum * moving + (1 - momentum) * batch        for mean and var alike

    Eval: the same formula with moving_mean and moving_var.

    Shapes: x and y are (N, C) for `rank` 2 and (N, C, H, W) for `rank` 4; gamma, beta, moving_mean and
    moving_var are (1, C) or (1, C, 1, 1).

    What differs from `torch.nn.BatchNorm1d` and `2d`, which compute the same y:
        - the moving variance averages the biased variance, torch's running_var the unbiased one, which is
          larger by n / (n - 1) for n values per channel;
        - `momentum` is the share of the *old* value (0.9), torch's that of the *new* one (0.1).

    What differs from the book, because it breaks deployment there:
        - the statistics are buffers; the book's are plain attributes, so its state_dict lacks them;
        - the mode is `self.training`; the book asks `torch.is_grad_enabled()`, so that its `.eval()` does
          nothing and an export with grad on bakes the statistics of the exported batch into the graph;
        - moving_var starts at 1, the variance of normalised data; older editions of the book start at 0.

    Args:
        channels: C.
        rank: 2 for (N, C), 4 for (N, C, H, W).
        eps: added to the variance under the root.
        momentum: the share of the old moving statistics that a training batch leaves in place.

    Raises:
        ModelError: `rank` is neither, or x has another rank or number of channels.
    """

    moving_mean: Tensor
    moving_var: Tensor

    def __init__(self, channels: int, rank: int, *, eps: float = 1e-5, momentum: float = 0.9) -> None:
        super().__init__()
        if rank not in (2, 4):
            raise ModelError(f"the textbook's batch norm takes inputs of rank 2 or 4, not {rank}")
        shape = (1, channels) if rank == 2 else (1, channels, 1, 1)
        self.rank = rank
        self.eps = eps
        self.momentum = momentum
        self.gamma = nn.Parameter(torch.ones(shape))
        self.beta = nn.Parameter(torch.zeros(shape))
        self.register_buffer("moving_mean", torch.zeros(shape))
        self.register_buffer("moving_var", torch.ones(shape))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises x, (N, C) or (N, C, H, W); in training mode also updates the moving statistics."""
        if x.dim() != self.rank or x.shape[1] != self.gamma.shape[1]:
            raise ModelError(
                f"this batch norm takes rank {self.rank} with {self.gamma.shape[1]} channels, "
                f"not {tuple(x.shape)}"
            )
        if not self.training:
            return self._normalise(x - self.moving_mean, self.moving_var)
        axes = [axis for axis in range(self.rank) if axis != 1]
        mean = x.mean(axes, keepdim=True)
        centred = x - mean
        var = torch.square(centred).mean(axes, keepdim=True)
        with torch.no_grad():
            self.moving_mean.lerp_(mean, 1 - self.momentum)
            self.moving_var.lerp_(var, 1 - self.momentum)
        return self._normalise(centred, var)

    def _normalise(self, centred: Tensor, var: Tensor) -> Tensor:
        # Per-channel factors first: in the order in which the formula is printed, autograd divides every
        # element twice, and training takes a quarter longer.
        return centred * (self.gamma / torch.sqrt(var + self.eps)) + self.beta

    def extra_repr(self) -> str:
        """What print() shows between the brackets."""
        return f"{self.gamma.shape[1]}, rank={self.rank}, eps={self.eps}, momentum={self.momentum}"


def matches(module: nn.Module) -> bool:
    """Whether `module` is this layer; a subclass may compute something else and is not."""
    return type(module) is BatchNorm


def ranks(module: nn.Module) -> tuple[int, ...]:
    """The ranks of the inputs that the layer takes."""
    assert isinstance(module, BatchNorm)  # noqa: S101 - narrows the type for what `matches` has checked
    return (module.rank,)


def params(module: nn.Module) -> BatchNormParams:
    """The layer's numbers.

    Raises:
        ValueError: they define no usable map; the text says why.
    """
    assert isinstance(module, BatchNorm)  # noqa: S101 - narrows the type for what `matches` has checked
    return BatchNormParams(
        to_vector(module.gamma),
        to_vector(module.beta),
        to_vector(module.moving_mean),
        to_vector(module.moving_var),
        module.eps,
    )


def set_statistics(module: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Replaces the statistics by `mean` and biased `var`, (C,) each, cast to the layer's own type."""
    assert isinstance(module, BatchNorm)  # noqa: S101 - narrows the type for what `matches` has checked
    module.moving_mean.copy_(mean.reshape(module.moving_mean.shape))
    module.moving_var.copy_(var.reshape(module.moving_var.shape))
