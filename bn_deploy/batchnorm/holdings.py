"""What a foreign module holds: its numbers by name, how many channels they speak of, what they look like."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.tensors import to_array

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_BY_NAME = re.compile(r"batch_?norm|^bn|(?-i:BN)|(?-i:Bn)(?![a-z])", re.IGNORECASE)
"""Class names of batch norms: FrozenBatchNorm2d, InPlaceABN, BnAct; not SubNet."""

Array = NDArray[np.float64]


class Unlike(ValueError):
    """A module is no batch norm that behaviour proves; the text is the reason, fit for a report."""


def is_foreign(module: nn.Module) -> bool:
    """Whether somebody else than torch wrote the class of `module`."""
    return type(module).__module__.partition(".")[0] != "torch"


def is_whole(module: nn.Module) -> bool:
    """Whether `module` does its work itself: what is inside it is torch's own and holds no numbers."""
    lists = (nn.ParameterList, nn.ParameterDict)
    return all(
        not is_foreign(part) and (isinstance(part, lists) or not (part._parameters or part._buffers))
        for part in list(module.modules())[1:]
    )


def held(module: nn.Module) -> dict[str, Array]:
    """The real numbers that `module` holds: parameters, buffers, plain attributes and lists of them, by name.

    Numbers of a part that only keeps parameters count as its own. A plain float has shape ().

    Raises:
        Unlike: a tensor of it has no plain values, or is a table of whole numbers.
    """
    numbers: dict[str, Array] = {}
    for name, value in _contents(module):
        numbers |= dict(_numbers(name, value))
    return numbers


def readable(module: nn.Module) -> dict[str, Array]:
    """As `held`, without what cannot be read."""
    numbers: dict[str, Array] = {}
    for name, value in _contents(module):
        with suppress(Unlike):
            numbers |= dict(_numbers(name, value))
    return numbers


def _contents(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Parameters, buffers and plain attributes of `module` and of what only keeps parameters for it."""
    for path, part in module.named_modules():
        if part is module or isinstance(part, (nn.ParameterList, nn.ParameterDict)):
            attributes = {k: v for k, v in vars(part).items() if k not in _OF_EVERY_MODULE}
            for name, value in {**part._parameters, **part._buffers, **attributes}.items():
                yield f"{path}.{name}".lstrip("."), value


def _numbers(name: str, value: object) -> Iterator[tuple[str, Array]]:
    """The arrays of real numbers in `value`, named after where they are; whole numbers are no such thing."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            try:
                yield name, to_array(value)
            except ValueError as error:
                raise Unlike(f"its {name} is not readable: {error}") from error
        elif value.numel() > 1:
            raise Unlike(f"its {name} is a tensor of {str(value.dtype).removeprefix('torch.')}")
    elif isinstance(value, np.ndarray):
        if np.issubdtype(value.dtype, np.floating):
            yield name, value.astype(np.float64)
    elif isinstance(value, float):
        yield name, np.array(value)
    elif isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        if any(isinstance(v, float) for v in value):
            yield name, np.array(value, dtype=np.float64)
    elif isinstance(value, (list, tuple, dict)):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(f"{name}.{key}", item)


def channels(numbers: dict[str, Array]) -> int:
    """C, which all vectors among `numbers` share, each of shape (C,) but for axes of length one.

    Raises:
        Unlike: there is no vector, one is not finite, or they do not have one length.
    """
    vectors = {name: array for name, array in numbers.items() if array.ndim}
    if not vectors:
        raise Unlike("it holds no numbers for its channels")
    for name, array in vectors.items():
        if array.size != max(array.shape):
            raise Unlike(f"its {name} has shape {array.shape}, which is no number per channel")
        if bad := int((~np.isfinite(array)).sum()):
            raise Unlike(f"{name} is not finite in {bad} channel(s)")
    lengths = {array.size for array in vectors.values()}
    if len(lengths - {1}) > 1 or 0 in lengths:
        raise Unlike(f"its numbers disagree about the number of channels: {sorted(lengths)}")
    return max(lengths)


def looks_like_batchnorm(module: nn.Module, numbers: dict[str, Array]) -> bool:
    """Whether names say batch norm: a mean and a variance, or that of the class beside vectors.

    A network that normalises its input holds a mean too, but none that moved.
    """
    vectors = [name.lower() for name, array in numbers.items() if array.ndim and "." not in name]
    means = [name for name in vectors if "mean" in name]
    spreads = [name for name in vectors if "var" in name or "std" in name]
    kept = any(word in name for name in means for word in ("running", "moving"))
    statistics = bool(means and spreads) and (kept or is_whole(module))
    named = bool(vectors) and _BY_NAME.search(type(module).__name__) is not None
    return named or statistics or native.is_relative(module)


def state(module: nn.Module) -> dict[str, object]:
    """What `module` and its parts hold, by value, to see whether a call changes it."""
    values: dict[str, object] = {}
    for path, part in module.named_modules():
        for name, value in {**part._parameters, **part._buffers, **vars(part)}.items():
            where = f"{path}.{name}".lstrip(".")
            if isinstance(value, Tensor):
                flat = value.detach().reshape(-1).view(torch.uint8)
                values[where] = tuple(value.shape), flat.numpy().tobytes()
            elif isinstance(value, np.ndarray):
                values[where] = value.shape, value.tobytes()
            elif isinstance(value, (bool, int, float, str, type(None))):
                values[where] = value
            elif name not in _OF_EVERY_MODULE and hasattr(value, "__len__"):
                values[where] = len(value)
    return values
