"""The textbook's layer as published, met in a live network that somebody brings.

Its class is the user's own, so it is known by its parts (gamma, beta, moving_mean, moving_var) and believed
only after its behaviour was seen: eps stands in the body of its forward, not in an attribute.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.tensors import to_vector

_PARTS = ("gamma", "beta", "moving_mean", "moving_var")

EPSILONS = (1e-5, 1e-3, 1e-12, 1e-6, 1e-8)
"""Candidates for eps, the likeliest first: the book's PyTorch text, Keras's default, the book's MXNet text,
and two in common use. Which of them it is, is measured; none fitting means that it is not this layer."""


def matches(module: nn.Module) -> bool:
    """Whether `module` has the textbook's parts, each of shape (1, C) or (1, C, 1, 1), and no children."""
    parts = [getattr(module, name, None) for name in _PARTS]
    if any(not isinstance(part, Tensor) for part in parts) or next(module.children(), None) is not None:
        return False
    tensors = [part for part in parts if isinstance(part, Tensor)]
    shape = tuple(tensors[0].shape)
    return len(shape) in (2, 4) and shape == _shape(shape) and all(tuple(t.shape) == shape for t in tensors)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, shape[1]) if len(shape) == 2 else (1, shape[1], 1, 1)


def params(module: nn.Module) -> BatchNormParams:
    """The layer's numbers, with the eps that reproduces its own output.

    A float64 copy of the layer is run on random batches in eval mode and without grad, the one setting in
    which the book's forward uses its moving statistics.

    Raises:
        ValueError: no eps reproduces it, so the layer computes something else; the text says so.
    """
    gamma, beta, mean, var = (to_vector(getattr(module, name)) for name in _PARTS)
    rank = int(module.gamma.dim())  # type: ignore[operator,union-attr]  # `matches` saw a tensor there
    generator = torch.Generator().manual_seed(0)
    spread = torch.from_numpy(np.sqrt(np.maximum(var, 0.0)) + 1.0).reshape(_shape((1, mean.size, 1, 1)[:rank]))
    centre = torch.from_numpy(mean).reshape(spread.shape)
    probes = []
    for count in (3, 1):
        size = (count, mean.size) if rank == 2 else (count, mean.size, 3, 2)
        probes.append(centre + spread * torch.randn(size, generator=generator, dtype=torch.float64))
    outputs = [_run(module, probe) for probe in probes]
    for eps in EPSILONS:
        try:
            candidate = BatchNormParams(gamma, beta, mean, var, eps)
        except ValueError:
            continue  # this eps leaves var + eps <= 0; a larger one may not
        affine = candidate.affine()
        # Both sides are a few float64 roundings of the same formula; the subtraction x - mean is exact to
        # an ulp of its operands, so the scale of the error is that of the operands, not of the result.
        if all(
            np.all(np.abs(affine(x.numpy()) - y) <= 16 * np.finfo(np.float64).eps * _magnitude(candidate, x.numpy()))
            for x, y in zip(probes, outputs, strict=True)
        ):
            return candidate
    raise ValueError(
        "it has the textbook batch norm's parts, but in eval mode without grad its output is not "
        "gamma * (x - moving_mean) / sqrt(moving_var + eps) + beta for any usual eps"
    )


def _run(module: nn.Module, x: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """The layer's output for x, from a float64 copy: the original's statistics must not move."""
    probe = copy.deepcopy(module).double().cpu().eval()
    for name in ("moving_mean", "moving_var"):
        plain = getattr(probe, name)
        if name not in dict(probe.named_buffers()):
            setattr(probe, name, plain.detach().double().cpu())
    with torch.no_grad():
        y = probe(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise ValueError("it has the textbook batch norm's parts, but does not keep the shape of its input")
    return y.numpy()


def _magnitude(
    candidate: BatchNormParams, x: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    affine = candidate.affine()
    shape = [1, candidate.channels, *[1] * (x.ndim - 2)]
    scale, mean, bias = (
        np.abs(v).reshape(shape) for v in (affine.scale, candidate.running_mean, candidate.bias)
    )
    total: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = scale * (np.abs(x) + mean) + bias
    return total


def set_statistics(module: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Replaces the statistics by `mean` and biased `var`, (C,) each, cast to the layer's own type."""
    for name, value in (("moving_mean", mean), ("moving_var", var)):
        old = getattr(module, name)
        setattr(module, name, value.reshape(old.shape).to(old))
