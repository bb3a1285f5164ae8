"""What rounding does to a network, drawn at random: the same computation, rounded another way.

Each parameter and each result of an operator is moved by one unit roundoff, up or down by chance; a sum of
products by what moving each product would do. Where sums are kept in wider numbers only the result is
rounded, and each number is moved by any part of a unit. That is Monte Carlo arithmetic (Parker 1997) around
the float64 run. One draw is as far from float64 as one correct runtime might be, so several say how much that
varies: on few images it varies a lot, and the one float32 run that was measured may have been lucky.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bn_deploy.verify.program import PRODUCTS, Program, Slot, Step
from bn_deploy.verify.rules import EXACT
from bn_deploy.verify.tolerance import NumberClass


def perturbed(program: Program, images: Tensor, numbers: NumberClass, generator: torch.Generator) -> Tensor:
    """Logits (n, classes) of one draw.

    Args:
        program: what the network does.
        images: (n, ...) float64.
        numbers: whose unit is, relatively, the most by which each number is moved.
        generator: what draws.
    """
    values: dict[Slot, Tensor] = {program.source: images}
    with torch.no_grad():
        for slot, constant in program.constants.items():
            real = constant.is_floating_point()
            values[slot] = _moved(constant, constant, numbers, generator) if real else constant
        for step in program.steps:
            args, kwargs = step.bind(values, len(images))
            first, *rest = step.run(args, kwargs)
            if step.op not in EXACT and first.is_floating_point():
                size = first if numbers.wide_sums else _spread(step, args, kwargs, first)
                first = _moved(first, size, numbers, generator)
            values.update(zip(step.results, (first, *rest), strict=True))
    return values[program.result]


def _moved(value: Tensor, size: Tensor, numbers: NumberClass, generator: torch.Generator) -> Tensor:
    by = torch.empty(value.shape, dtype=torch.float32).uniform_(-1, 1, generator=generator)
    return value + (by if numbers.wide_sums else by.sign_()) * size * numbers.unit


def _spread(step: Step, args: tuple[object, ...], kwargs: Mapping[str, object], result: Tensor) -> Tensor:
    """What the moves are relative to: the result, or the root of the sum of its products' squares."""
    if step.op not in PRODUCTS:
        return result
    squares = [a.square() if isinstance(a, Tensor) else a for a in args]
    return step.run(tuple(squares), kwargs)[0].sqrt_()
