"""The textbook's layer as published, met in a live network that somebody brings.

Its class is the user's own, so it is known by its parts (gamma, beta, moving_mean, moving_var) and believed
only after its behaviour was seen: eps stands in the body of its forward, not in an attribute.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bn_deploy.batchnorm.foreign import first_line
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.tensors import to_vector

_PARTS = ("gamma", "beta", "moving_mean", "moving_var")

EPSILONS = (1e-5, 1e-3, 1e-12, 1e-6, 1e-8)
"""Candidates for eps, the likeliest first: the book's PyTorch text, Keras's default, the book's MXNet text,
and two in common use. Which of them it is, is measured; none fitting means that it is not this layer."""

_PROBES = ((3, 1.0), (1, 1.0), (2, 1e3), (2, 1e-3), (3, 1.0))
"""Rows and spread of each probe, in standard deviations about the moving mean: several rows and one, for a
layer that looks at its batch; wide and narrow, for one that is linear only in the middle; the first again at
the end, for one that remembers."""


def matches(module: nn.Module) -> bool:
    """Whether `module` has the textbook's parts, each of shape (1, C) or (1, C, 1, 1), and no children."""
    parts = [getattr(module, name, None) for name in _PARTS]
    if any(not isinstance(part, Tensor) for part in parts) or next(module.children(), None) is not None:
        return False
    shapes = {tuple(part.shape) for part in parts if isinstance(part, Tensor)}
    shape = shapes.pop()
    return not shapes and len(shape) in (2, 4) and shape == (1, shape[1], 1, 1)[: len(shape)]


def ranks(module: nn.Module) -> tuple[int, ...]:
    """The rank of the inputs for which the layer's parts are shaped."""
    return (_part(module, "gamma").dim(),)


def params(module: nn.Module) -> BatchNormParams:
    """The layer's numbers, with the eps that reproduces its own output.

    A float64 copy of the layer is run on random batches in eval mode and without grad, the one setting in
    which the book's forward uses its moving statistics.

    Raises:
        ValueError: the forward fails, or no eps reproduces it, so the layer computes something else; the text
            says so.
    """
    gamma, beta, mean, var = (to_vector(_part(module, name)) for name in _PARTS)
    BatchNormParams(gamma, beta, mean, var, max(EPSILONS))  # numbers that no eps mends end here
    probes = _probes(mean, var, _part(module, "gamma").dim())
    outputs = _run(module, probes)
    for eps in EPSILONS:
        if np.min(var) + eps <= 0:
            continue
        candidate = BatchNormParams(gamma, beta, mean, var, eps)
        if all(_agree(candidate, x, y) for x, y in zip(probes, outputs, strict=True)):
            return candidate
    raise ValueError(
        "it has the textbook batch norm's parts, but in eval mode without grad its output is not "
        "gamma * (x - moving_mean) / sqrt(moving_var + eps) + beta for any usual eps"
    )


def _part(module: nn.Module, name: str) -> Tensor:
    part = getattr(module, name)
    assert isinstance(part, Tensor)  # noqa: S101 - narrows the type for what `matches` has checked
    return part


def _probes(mean: NDArray[np.float64], var: NDArray[np.float64], rank: int) -> list[NDArray[np.float64]]:
    """Random inputs (N, C) or (N, C, 3, 2) about the moving mean."""
    spread = np.sqrt(np.maximum(var, 0.0) + 1e-12)  # a variance of zero must not make all rows alike
    probes = []
    for rows, width in _PROBES:
        generator = np.random.default_rng(rows)
        noise = width * generator.standard_normal((rows, mean.size, 3, 2)[:rank])
        shape = (1, mean.size, 1, 1)[:rank]
        probes.append(mean.reshape(shape) + spread.reshape(shape) * noise)
    return probes


def _run(module: nn.Module, probes: list[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """The layer's output for each probe in turn, from one float64 copy, so that no statistics move.

    A layer that overwrites its input overwrites the probe, and then disagrees with every candidate.
    """
    outputs = []
    try:
        layer = copy.deepcopy(module).double().cpu().eval()
        for name in _PARTS:
            if name in vars(layer):  # a plain attribute, which .double() leaves alone
                setattr(layer, name, _part(layer, name).detach().double().cpu())
        with torch.no_grad():
            outputs = [layer(torch.from_numpy(x)) for x in probes]
    except Exception as error:  # the forward is foreign code
        raise ValueError(
            f"it has the textbook batch norm's parts, but a trial fails ({first_line(error)})"
        ) from error
    if any(type(y) is not Tensor or y.shape != x.shape for x, y in zip(probes, outputs, strict=True)):
        raise ValueError("it has the textbook batch norm's parts, but does not keep the shape of its input")
    return [y.numpy() for y in outputs]


def _agree(candidate: BatchNormParams, x: NDArray[np.float64], y: NDArray[np.float64]) -> bool:
    """Whether y is what `candidate` makes of x, but for the rounding of the two orders of the same formula.

    Either order takes fewer than eight roundings, and each is an ulp of an intermediate no larger than
    |scale| (|x| + |mean|) + |bias|: the scale of the error is that of the operands, not of the result.
    """
    affine = candidate.affine()
    shape = (1, candidate.channels, 1, 1)[: x.ndim]
    scale, mean, bias = (
        np.abs(v).reshape(shape) for v in (affine.scale, candidate.running_mean, candidate.bias)
    )
    bound = 16 * np.finfo(np.float64).eps * (scale * (np.abs(x) + mean) + bias)
    return bool(np.all(np.abs(affine(x) - y) <= bound))


def set_statistics(module: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Replaces the statistics by `mean` and biased `var`, (C,) each, cast to the layer's own type."""
    for name, value in (("moving_mean", mean), ("moving_var", var)):
        old = _part(module, name)
        setattr(module, name, value.reshape(old.shape).to(old))
