"""The half formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.spec import Precision


@dataclass(frozen=True)
class Half:
    """A floating-point format of 16 bits.

    Attributes:
        precision: which one.
        dtype: what ONNX calls it.
        numpy: its numpy type.
        unit: its unit roundoff, the largest relative error of rounding to nearest in its normal range.
        largest: the largest finite number.
    """

    precision: Precision
    dtype: ir.DataType
    numpy: np.dtype[Any]
    unit: float
    largest: float

    def unfit(self, numbers: NDArray[np.generic]) -> str | None:
        """Why numbers cannot be stored in this format, or None.

        Rounding in the normal range takes at most `unit` from each number, so whatever takes more from all
        of them together (root mean square) is underflow. Infinities stay what they are.
        """
        exact = numbers[np.isfinite(numbers)].astype(np.float64)
        largest = float(np.abs(exact).max(initial=0.0))
        if largest > self.largest:
            return f"reaches {largest:.3g}, and {self.precision.value} ends at {self.largest:.3g}"
        lost = exact - exact.astype(self.numpy).astype(np.float64)
        total = float(np.sqrt(np.square(exact).sum()))
        share = float(np.sqrt(np.square(lost).sum())) / total if total else 0.0
        if share > self.unit:
            return f"loses {share:.1e} of itself to underflow, where rounding takes {self.unit:.1e} at most"
        return None


FP16 = Half(Precision.FP16, ir.DataType.FLOAT16, ir.DataType.FLOAT16.numpy(), 2.0**-11, 65504.0)
BF16 = Half(
    Precision.BF16,
    ir.DataType.BFLOAT16,
    ir.DataType.BFLOAT16.numpy(),
    2.0**-8,
    (2 - 2.0**-7) * 2.0**127,
)
HALVES = (FP16, BF16)
"""Units and ranges: IEEE 754-2019 binary16; bfloat16 has float32's exponent and 8 significant bits."""


def half_of(precision: Precision) -> Half | None:
    """The half format that a precision computes in, where not in int8; None if in none."""
    wanted = Precision.FP16 if precision is Precision.INT8_FP16 else precision
    return next((half for half in HALVES if half.precision is wanted), None)
