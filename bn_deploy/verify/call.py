"""One operator as a rounding rule sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from bn_deploy.errors import ModelError
from bn_deploy.verify.tolerance import rounding

_TINY = 2.0**-126
"""The smallest normal float32: what flushing a denormal to zero may lose."""


@dataclass(frozen=True)
class Call:
    """One operator with what went in and came out.

    Attributes:
        function: the operator.
        args, kwargs: its arguments, tensors in float64.
        errors: for each argument, a bound of its error of the same shape; None where it is exact.
        result: what it gives, its first output if it has several.
        unit: the unit roundoff.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    errors: tuple[Any, ...]
    result: Tensor
    unit: float

    def off(self, index: int) -> Tensor:
        """The bound of the error of argument `index`, zero where it is exact."""
        error = self.errors[index] if index < len(self.errors) else None
        return torch.zeros((), dtype=torch.float64) if error is None else cast(Tensor, error)

    def share(self, kind: str, terms: int = 0) -> float:
        """The relative error of `terms` roundings of a kind of operator."""
        relative = rounding(kind).relative(self.unit, terms)
        if relative is None:
            raise ModelError(f"n u >= 1 for {terms} terms with u = {self.unit:g}: the bound does not hold")
        return relative

    def rounded(self, through: Tensor, kind: str, of: Tensor, terms: int = 0) -> Tensor:
        """`through`, what comes through the operands, and the operator's own rounding."""
        return through + self.share(kind, terms) * of + (terms + 1) * _TINY


Rule = Callable[[Call], Tensor]
"""What a rule does: the bound of the error of the result."""
