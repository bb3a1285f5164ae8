"""The one crossing from torch's tensors to the float64 arrays that the algebra works on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bn_deploy.batchnorm.affine import Vector


def to_array(tensor: Tensor) -> NDArray[np.float64]:
    """A float64 copy of `tensor`, in its shape.

    Raises:
        ValueError: it does not hold plain real numbers; the text says what it is instead.
    """
    # A subclass may stand for other numbers than it stores, as a quantized weight does.
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
        raise ValueError(f"a {type(tensor).__name__} of layout {tensor.layout} is not a plain tensor")
    if not tensor.is_floating_point():
        raise ValueError(f"a tensor of {tensor.dtype} is not one of real numbers")
    if tensor.is_meta:
        raise ValueError("a tensor on the meta device has no values")
    array: NDArray[np.float64] = tensor.detach().to("cpu", torch.float64, copy=True).numpy()
    return array


def to_vector(tensor: Tensor) -> Vector:
    """A float64 copy of `tensor`, flattened: (C,) from (C,), (1, C) or (1, C, 1, 1).

    Raises:
        ValueError: as `to_array`.
    """
    return to_array(tensor).reshape(-1)


def widest_dtype(module: nn.Module) -> torch.dtype:
    """The type to which torch promotes the tensors that `module` holds, plain attributes included.

    One that holds none, but arrays or plain numbers, takes the default type.
    """
    types = [tensor.dtype for tensor in _tensors(module) if tensor.is_floating_point()]
    return reduce(torch.promote_types, types) if types else torch.get_default_dtype()


def device_of(module: nn.Module) -> torch.device:
    """Where `module` keeps its tensors, parameters before plain attributes; the CPU if it has none."""
    return next((tensor.device for tensor in _tensors(module)), torch.device("cpu"))


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    plain = (value for value in vars(module).values() if isinstance(value, Tensor))
    return chain(module.parameters(), module.buffers(), plain)
