"""Inputs of other sizes than those that were given."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bn_deploy.folding.modules.course import Course, Inputs

Candidates = list[Inputs]
"""Inputs of which the first that the network takes is run."""


def of_batch(inputs: Inputs, size: int) -> Inputs | None:
    """The inputs with another size of the batch, if there is one: an axis 0 that the first tensor shows."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not leaves or not len(leaves[0]):
        return None
    return _resized(inputs, 0, len(leaves[0]), size)


def other_sizes(main: Course) -> Iterator[Candidates]:
    """The inputs of a course with another size along one axis."""
    one = of_batch(main.given, 1)
    if one is not None:
        yield [one]
    if not main.sized:
        return
    shape = next(leaf for leaf in pytree.tree_leaves(main.given) if isinstance(leaf, Tensor)).shape
    for axis in range(1, len(shape)):
        # An odd size shows more, an even one is taken by networks that halve and double.
        yield [_resized(main.given, axis, shape[axis], 2 * shape[axis] + more) for more in (1, 0)]
    for number in sorted(number for number in main.numbers if 0 < number <= _LARGE)[:_MANY]:
        if prod(shape) <= _SMALL:
            axes = [axis for axis, size in enumerate(shape) if size != number]
            yield from ([_resized(main.given, axis, shape[axis], number)] for axis in axes)
            places = main.given
            for axis in range(2, len(shape)):
                places = _resized(places, axis, shape[axis], number)
            yield [places]
    if prod(shape) <= _SMALL:  # what is told apart by size only is told apart at some of these
        many = of_batch(main.given, 2 * _FAR)
        yield [] if many is None else [many]
        for axis in range(1, len(shape)):
            yield [_resized(main.given, axis, shape[axis], _FAR * shape[axis])]
        places = main.given
        for axis in range(2, len(shape)):
            places = _resized(places, axis, shape[axis], _FAR * shape[axis])
        yield [places]


def all_sizes(main: Course) -> Iterator[Candidates]:
    """The inputs of a course with one example, and with other sizes along all axes of places at once."""
    one = of_batch(main.given, 1)
    if one is not None:
        yield [one]
    shape = next(leaf for leaf in pytree.tree_leaves(main.given) if isinstance(leaf, Tensor)).shape
    start = 2 if len(shape) > 3 else 1
    yield [_enlarged(main.given, shape, start, more) for more in (1, 0)]
    yield from ([_resized(main.given, axis, shape[axis], 2 * shape[axis])] for axis in range(1, start))


def _enlarged(inputs: Inputs, shape: torch.Size, start: int, more: int) -> Inputs:
    for axis in range(start, len(shape)):
        inputs = _resized(inputs, axis, shape[axis], 2 * shape[axis] + more)
    return inputs


_FAR = 12
"""How many times as large the largest inputs are that are tried of a size."""

_LARGE, _MANY = 128, 8
"""How large, and how many, sizes are tried since the code that computes with sizes has these numbers."""

_SMALL = 1 << 11
"""Of how many numbers inputs may be that are enlarged so much: the run must not take long."""


def _resized(inputs: Inputs, axis: int, size: int, new: int) -> Inputs:
    """The inputs with every axis of that number and size made `new` long."""
    places = torch.arange(new) % size

    def resized(tensor: Tensor) -> Tensor:
        same = tensor.dim() > axis and tensor.shape[axis] == size
        return tensor.detach().index_select(axis, places.to(tensor.device)) if same else tensor.detach()

    found: Inputs = pytree.tree_map_only(Tensor, resized, inputs)
    return found
