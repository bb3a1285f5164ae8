"""Which of a recognised layer's numbers are mean, variance, weight and bias, and what its eps is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bn_deploy.batchnorm.holdings import Array
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.proof import Claim

_ROLES = {
    "weight": ("weight", "gamma", "scale"),
    "bias": ("bias", "beta", "shift"),
    "mean": ("mean",),
    "var": ("var",),
}
"""A part of the names under which each is known. Names only propose; the layer's own output decides."""


@dataclass(frozen=True)
class Names:
    """The attributes that hold a layer's statistics."""

    mean: str
    var: str


def named(numbers: dict[str, Array], claim: Claim) -> tuple[Names | None, BatchNormParams]:
    """The layer's own numbers under their names if they make the map, otherwise the map as such."""
    own = _own(numbers, claim)
    if own is not None:
        return own
    c, affine = claim.size.size, claim.affine
    # sqrt(1 + 0) is 1 exactly, so that nothing is rounded on the way.
    return None, BatchNormParams(affine.scale, affine.shift, np.zeros(c), np.ones(c), 0.0)


def _own(numbers: dict[str, Array], claim: Claim) -> tuple[Names, BatchNormParams] | None:
    """Mean, variance, weight and bias by name, with the eps that reproduces the map; None if none does."""
    parts = {}
    for role, words in _ROLES.items():
        found = [name for name, v in numbers.items() if v.ndim and any(w in name.lower() for w in words)]
        if len(found) > 1 or (not found and role in ("mean", "var")):
            return None
        parts[role] = found[0] if found else None
    ones = np.ones(claim.size.size)

    def vector(role: str, default: float) -> Array:
        name = parts[role]
        return default * ones if name is None else ones * numbers[name].reshape(-1)

    weight, bias = vector("weight", 1.0), vector("bias", 0.0)
    mean, var = vector("mean", 0.0), vector("var", 1.0)
    for eps in _epsilons(numbers, weight, var, claim):
        if np.min(var) + eps <= 0:
            continue
        params = BatchNormParams(weight, bias, mean, var, eps)
        if claim.agrees(params.affine()):
            return Names(str(parts["mean"]), str(parts["var"])), params
    return None


def _epsilons(numbers: dict[str, Array], weight: Array, var: Array, claim: Claim) -> Iterator[float]:
    """What eps can be: a float that the layer holds, or the shortest decimal that its output calls for.

    scale = weight / sqrt(var + eps) is solved for eps where the variance is smallest and hides it least.
    """
    yield from (float(v) for v in numbers.values() if not v.ndim)
    scale = claim.affine.scale
    usable = (scale != 0) & (weight != 0)
    if usable.any():
        at = np.flatnonzero(usable)[np.argmin(var[usable])]
        solved = float((weight[at] / scale[at]) ** 2 - var[at])
        yield from (float(f"{solved:.{digits}e}") for digits in range(17))
    yield 0.0
