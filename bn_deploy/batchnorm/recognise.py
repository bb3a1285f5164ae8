"""A module that nobody listed, recognised by what it does: in eval mode it is an affine map of each channel.

Law 1 read backwards: whatever is such a map over axis 1 is a batch norm, however it is written. A copy of the
module is run in float64 without grad, the map is solved for, and then everything is tried to refute it
(`proof`). Only modules that hold vectors of one length, and no layers of their own, are run at all.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.foreign import added_code
from bn_deploy.batchnorm.holdings import (
    Array,
    Unlike,
    channels,
    held,
    is_foreign,
    is_whole,
    looks_like_batchnorm,
    readable,
)
from bn_deploy.batchnorm.identify import Names, named
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.proof import Case, Claim, Layout, claim, prove
from bn_deploy.batchnorm.suspicion import cause
from bn_deploy.batchnorm.trial import Arithmetic, Trial, quietly, trains
from bn_deploy.errors import ModelError

_LAYOUTS = tuple(Layout(rank, axis) for rank in (2, 3, 4, 5) for axis in sorted({1, rank - 1}))

_WIDE = 512
"""Channels from which it pays to watch for a forward that makes C x C numbers of a few samples."""


@dataclass(frozen=True)
class Recognised:
    """A batch norm that was recognised by its behaviour.

    Attributes:
        params: its numbers: its own ones, where they could be told from their names and reproduce its output;
            otherwise weight = scale, bias = shift, mean 0, variance 1 and eps 0, which is the same map.
        names: which of its attributes are which of these, None if they could not be told.
        axes: where its channels are, by the rank of the input: axis 1, or for a layer whose vectors merely
            broadcast the last axis.
    """

    params: BatchNormParams
    names: Names | None
    axes: dict[int, int]

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks at which its channels are axis 1."""
        return tuple(rank for rank, axis in self.axes.items() if axis == 1)

    @property
    def takes_last_axis(self) -> bool:
        """Whether its channels are the last axis at every rank, which is axis 1 at rank 2 only."""
        return len(self.axes) > len(self.ranks)


def is_candidate(module: nn.Module) -> bool:
    """Whether `module` could be a batch norm by its looks; only then is it run."""
    try:
        return is_foreign(module) and is_whole(module) and channels(held(module)) > 0
    except Unlike:
        return False


def recognise(module: nn.Module) -> Recognised | None:
    """What `module` is, if its behaviour proves it a batch norm."""
    if not is_candidate(module):
        return None
    try:
        return examine(module, explain=False)
    except Unlike:
        return None


def why_not(module: nn.Module) -> str | None:
    """Why a module that by its names claims to be a batch norm is not recognised as one; None for others.

    A module that torch wrote, or that is recognised, is none of those.
    """
    if not is_foreign(module) or not looks_like_batchnorm(module, readable(module)):
        return None
    try:
        examine(module)
    except Unlike as error:
        return str(error)
    return None


def examine(module: nn.Module, *, explain: bool = True) -> Recognised:
    """Proves that `module` is a batch norm.

    Args:
        module: any module; it is not changed.
        explain: whether to look for the cause where the proof fails, which takes some more trials.

    Raises:
        Unlike: it is not, or not provably; the text says why.
    """
    _check_code(module)
    if not is_whole(module):
        raise Unlike("it holds layers of its own")
    numbers = held(module)
    size = channels(numbers)
    with quietly():
        trial = Trial(module)
        layouts = _layouts(module, trial, size)
        try:
            by_name = looks_like_batchnorm(module, numbers)
            _check_channels(trial, layouts[0], size, by_name=by_name)
            _check_axes(layouts, by_name=by_name)
            claimed = _proved(module, trial, layouts, numbers, size)
        except Unlike as error:
            raise Unlike((explain and cause(trial, layouts[-1], size)) or str(error)) from error
    names, params = named(numbers, claimed)
    return Recognised(params, names, {layout.rank: layout.axis for layout in layouts})


def _check_code(module: nn.Module) -> None:
    """Rules out code around the forward, which running it does not show, or which is not to be run."""
    if code := added_code(module):
        raise Unlike(f"it has {code}")
    if type(module).__call__ is not nn.Module.__call__:
        raise Unlike("its class has a __call__ of its own")
    if torch.nn.utils.parametrize.is_parametrized(module):
        raise Unlike("its parameters are parametrized")
    try:
        arguments = inspect.signature(module.forward).parameters
    except (TypeError, ValueError) as error:
        raise Unlike("what its forward takes cannot be read") from error
    if [a.kind for a in arguments.values()] != [inspect.Parameter.POSITIONAL_OR_KEYWORD]:
        raise Unlike(f"its forward takes ({', '.join(map(str, arguments.values()))}), not the input alone")


def _layouts(module: nn.Module, trial: Trial, size: int) -> list[Layout]:
    """The inputs that the layer takes: those on which it runs and, if it trains on any, on which it trains.

    A layer that merely broadcasts its vectors runs on more than it was written for; the means that it takes
    in training are over the axes that it was written for.

    Raises:
        Unlike: there are none.
    """
    reasons: dict[int, str] = {}
    taken = []
    for layout in _LAYOUTS:
        if layout.axis > 1 and size == 1:
            continue  # of one channel, all axes look alike
        try:
            with Arithmetic() if size > _WIDE else nullcontext():
                trial(_any_input(layout, size))
            taken.append(layout)
        except Unlike as error:
            reasons.setdefault(layout.rank, str(error))
    if not taken:
        raise Unlike(reasons[4])
    if len(taken) == 1 or (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return taken  # in training it might wait for other processes
    return [layout for layout in taken if trains(module, _any_input(layout, size))] or taken


def _any_input(layout: Layout, size: int) -> Array:
    """Numbers, no two alike, in a shape of which only the axis of the channels has their number."""
    two, other = [n for n in (2, 3, 4, 5) if n not in (size, size + 1)][:2]
    shape = layout.shape(size, two, (other, two, other))
    return np.linspace(-1.0, 2.0, prod(shape)).reshape(shape)


def _check_channels(trial: Trial, layout: Layout, size: int, *, by_name: bool) -> None:
    """Rules out a layer that runs on other numbers of channels, which no batch norm does.

    One of a single channel broadcasts, so that its names must tell it from a scalar factor.
    """
    try:
        trial(_any_input(layout, size + 1))
    except Unlike:
        return
    if size > 1 or not by_name:
        raise Unlike("it takes any number of channels")


def _check_axes(layouts: list[Layout], *, by_name: bool) -> None:
    """Rules out channels that are not axis 1, or not known to be.

    What takes its channels last is a batch norm at rank 2. That it is meant as one, and is no scale of the
    last axis as transformers have it, must be in its names.
    """
    last = [layout for layout in layouts if layout.axis > 1]
    first = [layout for layout in layouts if layout.axis == 1]
    if not first:
        raise Unlike("its channels are the last axis of its input, not axis 1")
    if last and (first != [Layout(2, 1)] or not by_name):
        raise Unlike("its channels are the last axis of its input, which is axis 1 at rank 2 only")


def _proved(
    module: nn.Module, trial: Trial, layouts: list[Layout], numbers: dict[str, Array], size: int
) -> Claim:
    """The map that the layer is, the same in all layouts.

    Raises:
        Unlike: it is none.
    """
    rows = [array.reshape(-1) * np.ones(size) for array in numbers.values() if array.ndim]
    largest = np.max(np.abs([np.ones(size), *rows]), axis=0)
    claimed = claim(trial, layouts[0], largest)
    for layout in layouts:
        prove(Case(module, trial, claimed, layout, np.array(rows)), fully=layout is layouts[-1])
    return claimed


def needs_grad_off(module: nn.Module) -> bool:
    """Whether a recognised layer computes something else with grad on, even in eval mode, as the book's does.

    Everything here, and all that is made of it, is about what it computes without.
    """
    proof = examine(module)
    affine, layout = proof.params.affine(), Layout(*next(iter(proof.axes.items())))
    x = _any_input(layout, affine.channels)
    with quietly():
        without, trial = Trial(module)(x), Trial(module)
        try:
            with torch.enable_grad():
                return not np.array_equal(trial(x), without)
        except Unlike:
            return True


def matches(module: nn.Module) -> bool:
    """Whether `module` behaves as a batch norm."""
    return recognise(module) is not None


def ranks(module: nn.Module) -> tuple[int, ...]:
    """The ranks of the inputs whose axis 1 the layer takes for its channels."""
    return examine(module).ranks


def params(module: nn.Module) -> BatchNormParams:
    """The layer's numbers.

    Raises:
        ValueError: it is no batch norm; the text says why.
    """
    return examine(module).params


def set_statistics(module: nn.Module, mean: Tensor, var: Tensor) -> None:
    """Replaces the statistics by `mean` and biased `var`, (C,) each, cast to the layer's own type.

    Raises:
        ModelError: which numbers of the layer are its statistics could not be told.
    """
    names = examine(module).names
    held_in = [] if names is None else [(n, getattr(module, n, None)) for n in (names.mean, names.var)]
    if not held_in or not all(isinstance(old, Tensor) for _, old in held_in):
        raise ModelError(f"which tensors of a {type(module).__name__} are its statistics is not known")
    for (name, old), value in zip(held_in, (mean, var), strict=True):
        assert isinstance(old, Tensor)  # noqa: S101 - narrows the type for what was checked above
        setattr(module, name, value.reshape(old.shape).to(old))
