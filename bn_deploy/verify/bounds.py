"""How far rounding may take a network's logits: worst-case bounds, image by image.

Two ways. `strict` carries a bound from layer to layer; it holds for every runtime that evaluates the same
operators on the same numbers, whatever its order of summation. `first_order` multiplies what each operator
rounds by how much the answer changes with it (the network's own derivatives) and adds up; it is far tighter
and neglects products of two roundings.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bn_deploy.errors import ModelError
from bn_deploy.verify.call import Call
from bn_deploy.verify.program import Program, Slot
from bn_deploy.verify.rules import RULES

_OWN = 1 + 2.0**-20
"""The float64 evaluation of a bound is off by far less than this."""


def missing(program: Program) -> str | None:
    """The operators of a program that have no rule, in words, or None."""
    without = {step.op for step in program.steps if step.op not in RULES}
    return f"no rounding rule for {', '.join(sorted(without))}" if without else None


def strict(program: Program, images: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and a bound of the error of each, from layer to layer.

    Args:
        program: what the network does.
        images: (n, ...) float64.
        unit: the unit roundoff of the runtime's number format.

    Raises:
        ModelError: an operator has no rule, or its bound does not hold for so many terms.
    """
    with torch.no_grad():
        values, errors, _ = _walk(program, images, unit, carry=True)
    logits = values[program.result]
    error = errors.get(program.result)
    return logits, torch.zeros_like(logits) if error is None else error * _OWN


def first_order(program: Program, images: Tensor, unit: float, top: Tensor) -> Tensor:
    """Bounds (n, classes) of the error of logit `top` minus each logit; 0 at `top` itself.

    Args:
        program: what the network does.
        images: (n, ...) float64.
        unit: the unit roundoff of the runtime's number format.
        top: (n,) which logit of each image the others are compared with.

    Raises:
        ModelError: an operator has no rule, or its bound does not hold for so many terms.
    """
    values, _, sources = _walk(program, images.clone().requires_grad_(), unit, carry=False)
    logits = values[program.result]
    rows = torch.arange(len(images))
    bounds = torch.zeros_like(logits, requires_grad=False)
    results = [result for result, _ in sources]
    for label in range(logits.shape[1]):
        difference = (logits[rows, top] - logits[:, label]).sum()
        slopes = torch.autograd.grad(difference, results, retain_graph=True, allow_unused=True)
        for slope, (_, error) in zip(slopes, sources, strict=True):
            if slope is not None:
                bounds[:, label] += (slope.abs() * error).flatten(1).sum(dim=1)
    return bounds.detach() * _OWN


def _walk(
    program: Program, images: Tensor, unit: float, *, carry: bool
) -> tuple[dict[Slot, Tensor], dict[Slot, Tensor], list[tuple[Tensor, Tensor]]]:
    """Runs a program; with `carry` errors go from operator to operator, else each operator's own is kept.

    Returns:
        The results, their errors, and without `carry` each result that follows the input with what its
        operator rounds, including what the rounding of computed parameters does to it.
    """
    values: dict[Slot, Tensor] = {program.source: images, **program.constants}
    errors: dict[Slot, Tensor] = {}
    sources: list[tuple[Tensor, Tensor]] = []
    for step in program.steps:
        args, kwargs = step.bind(values, len(images))
        results = step.run(args, kwargs)
        values.update(zip(step.results, results, strict=True))
        if (rule := RULES.get(step.op)) is None:
            raise ModelError(f"no rounding rule for {step.op}")
        if not results[0].is_floating_point():
            continue
        with torch.no_grad():
            off = tuple(_errors(argument, errors) for argument in step.args)
            error = rule(Call(step.function, args, kwargs, off, results[0], unit))
        if carry or not step.follows:
            errors[step.results[0]] = error
        elif bool(error.any()):
            sources.append((results[0], error))
    return values, errors, sources


def _errors(argument: Any, errors: dict[Slot, Tensor]) -> Any:
    """The errors of an argument, in its own shape; None for what is exact."""
    if isinstance(argument, (list, tuple)):
        return [_errors(one, errors) for one in argument]
    return errors.get(argument) if isinstance(argument, Slot) else None
