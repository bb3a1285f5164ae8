"""Where every bound comes from: number formats, and what each operator may round.

Nothing here is chosen to make a network pass. A number format brings its unit roundoff; an operator brings a
count of roundings with its source; the two together bound what a correct runtime may do. Where the formula
does not hold any more (n u >= 1) there is no bound, and that is said instead of using one.
"""

from __future__ import annotations

from dataclasses import dataclass

from bn_deploy.errors import InputError


@dataclass(frozen=True)
class NumberClass:
    """A number format that a network computes in.

    Attributes:
        name: what reports call it.
        unit: its unit roundoff u, the largest relative error of rounding to nearest.
        factor: how many times farther from float64 than the unfolded network in the same class a form may be.
        certifiable: whether worst-case bounds say anything: with u = 2^-11 they exceed every margin.
        wide_sums: whether sums of products are kept in float32 and rounded once.
        fixed_steps: whether the unit is relative to a tensor's largest number and not to each number.
    """

    name: str
    unit: float
    factor: float
    certifiable: bool
    wide_sums: bool
    fixed_steps: bool = False


CLASSES: tuple[NumberClass, ...] = (
    NumberClass("fp32", 2.0**-24, 2.0, certifiable=True, wide_sums=False),
    NumberClass(
        "tf32", 2.0**-11, 2.0, certifiable=False, wide_sums=True
    ),  # float32 sums of products of 11-bit numbers
    NumberClass("fp16", 2.0**-11, 3.0, certifiable=False, wide_sums=True),
    NumberClass("bf16", 2.0**-8, 3.0, certifiable=False, wide_sums=True),
    NumberClass("int8", 1 / 254, 3.0, certifiable=False, wide_sums=True, fixed_steps=True),
    NumberClass("int8+fp16", 1 / 254, 3.0, certifiable=False, wide_sums=True, fixed_steps=True),
)
"""Units: IEEE 754-2019 for fp16 and fp32, 11 significant bits for TF32, 8 for bfloat16; int8 has 127 steps
on each side of zero, and rounding to nearest takes half of one. What fp16 adds to int8 is 8 times smaller, so
both are measured alike: by the unfolded network with the operands of every product in int8. Factors:
PyTorch's compiler tests accept 2 for float32 and 3 for half types (torch/_dynamo/utils.py, `same`), with an
absolute tolerance on top that is left out here; int8 takes that of the half types, for want of a source."""


def number_class(name: str) -> NumberClass:
    """The class called `name`.

    Raises:
        InputError: there is none, so nothing says how far such a network may be from float64.
    """
    for row in CLASSES:
        if row.name == name:
            return row
    known = ", ".join(row.name for row in CLASSES)
    raise InputError(f"there is no rule for how far a network in {name} may be from float64; known: {known}")


def gamma(terms: int, unit: float) -> float | None:
    """gamma_n = n u / (1 - n u), the relative error of n roundings in any order; None where n u >= 1.

    Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., lemma 3.1 and section 3.1: a dot product
    of n terms in any order of summation, fused or not, is off by at most gamma_n times the sum of |a_i b_i|.
    """
    product = terms * unit
    return product / (1 - product) if product < 1 else None


@dataclass(frozen=True)
class Rounding:
    """What one kind of operator may round.

    Attributes:
        name: the kind.
        fixed: roundings of each result.
        per_term: further roundings for each term that a result sums.
        of: what they are relative to.
        source: where the count comes from.
    """

    name: str
    fixed: int
    per_term: int
    of: str
    source: str

    def relative(self, unit: float, terms: int = 0) -> float | None:
        """The bound, as a multiple of what `of` says; None where the formula does not hold."""
        return gamma(self.fixed + self.per_term * terms, unit)


_WEBNN = "WebNN conformance tests, web-platform-tests webnn/resources/utils.js"
_STANDARD = "IEEE 754: correctly rounded"

ROUNDINGS: tuple[Rounding, ...] = (
    Rounding("move", 0, 0, "the result", "copies numbers, or picks one of them"),
    Rounding("single", 1, 0, "the result", _STANDARD),
    Rounding("dot", 0, 1, "the sum of |a b|", "Higham 2002, section 3.1; a bias is one more term"),
    Rounding("sum", 0, 1, "the sum of |a|", "Higham 2002, section 4.2"),
    Rounding("average", 2, 1, "the mean of |a|", _WEBNN),
    Rounding("batch_norm", 6, 0, "|x a| + |mean a| + |shift|, a = weight / sqrt(var + eps)", _WEBNN),
    Rounding(
        "squash", 8, 0, "1", "measured: 2.8 (ONNX Runtime 1.32), 1.5 (torch 2.13) sigmoid; 5.5, 1.0 tanh"
    ),
    Rounding("gated", 9, 0, "|x|", "x times a squashed number, and one rounding more"),
    Rounding("elementary", 18, 0, "the result", f"{_WEBNN}: elu, gelu; libraries are within 2 units"),
    Rounding("softmax", 6, 6, "the result", f"{_WEBNN}: 3 n + 3 units in the last place, 2 roundings each"),
)
"""The rounding model. A unit in the last place is at most 2 u of the number. Convolutions and matrix products
are taken for sums of products in any order: Winograd's and Fourier's algorithms are not covered."""


def rounding(name: str) -> Rounding:
    """The row called `name`."""
    return next(row for row in ROUNDINGS if row.name == name)
