"""What the rows for torch's operators have in common: how they read an operator's arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch

from bn_deploy.folding.modules.course import Op, Value
from bn_deploy.folding.modules.translate import Opaque, Translation

Row = Callable[[Translation, Op], None]
"""Writes an operator down; raises Opaque where its use is not understood."""


def value_of(op: Op, name: str = "self") -> Value:
    """An argument that must depend on the inputs."""
    found = op.arguments.get(name)
    if not isinstance(found, Value):
        raise Opaque(f"{name} is no value")
    return found


def whole(number: Any) -> int:
    """An argument that must be a whole number that does not vary."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise Opaque(f"{number} is no fixed number")
    return number


def wholes(given: Any, count: int) -> list[int]:
    """An argument of `count` whole numbers, or one for all."""
    numbers = [whole(number) for number in given] if isinstance(given, (list, tuple)) else [whole(given)]
    return numbers * count if len(numbers) == 1 else numbers


def first(op: Op) -> Value:
    """The operator's first result."""
    if not op.outputs or op.outputs[0] is None:
        raise Opaque("no result")
    return op.outputs[0]


def scalar(t: Translation, number: Any, like: Value) -> ir.Value:
    """A fixed number as a constant of the type of `like`."""
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise Opaque("no fixed number")
    return t.constant(torch.tensor(float(number), dtype=like.dtype))
