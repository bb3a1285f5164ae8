"""Operators that compute element by element and yet let some maps through: sums, products, rectifiers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.links import drops_nothing
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Fields, Passing, Pull, Push, only_scale, same_both_ways, unsigned
from bn_deploy.folding.outcome import Refusal


def _rectified(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """max(s x, 0) = s max(x, 0) for s >= 0, and likewise with a slope for negative x."""
    only_scale(field, node)
    unsigned(field, node)


def _sloped(network: Network, node: ir.Node, field: Field) -> None:
    """PRelu: its slope broadcasts to the input, never the other way."""
    if field.rank != network.rank(node.inputs[0]):
        raise Refusal(f"{label(node)} is used in an unusual way")
    _rectified(network, node, field)


def _clipped(network: Network, node: ir.Node, field: Field) -> None:
    """A Clip is a rectifier if its bounds, scaled, are the same: zero or infinite."""
    _rectified(network, node, field)
    for name, place in (("min", 1), ("max", 2)):
        attribute = node.attributes.get(name)
        value = node.inputs[place] if len(node.inputs) > place else None
        bound = network.constants.real(value) if value is not None else None
        if attribute is not None:
            bound = np.array(attribute.as_float())
        elif value is None:
            continue
        if bound is None or not all(number == 0 or np.isinf(number) for number in bound.reshape(-1)):
            raise Refusal(f"{label(node)} clips at other than zero")


def _zeroed(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """Trilu: what is not kept is zero, scaled or not."""
    only_scale(field, node)


def _undropped(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """A Dropout whose mask is used; in inference that is true all over, whatever the input is."""
    if not drops_nothing(network, node):
        raise Refusal(f"{label(node)} may be in training mode")


def _types(node: ir.Node) -> tuple[bool, str]:
    """Whether the result of a Cast holds every number of its input, and what it casts, for a reason."""
    value, result = node.inputs[0], node.outputs[0]
    before, after = None if value is None else value.dtype, result.dtype
    if before is None or after is None:
        raise Refusal(f"the types of {label(node)} are not known")
    what = f"{label(node)} casts {before.name.lower()} to {after.name.lower()}"
    return after in _HOLDING.get(before, ()), what


_HOLDING = {
    ir.DataType.FLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.BFLOAT16: (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    ir.DataType.FLOAT: (ir.DataType.DOUBLE,),
}
"""The types that hold every number of a type, with more digits for what is computed from it."""


def _cast_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:  # noqa: ARG001
    """A map before a Cast is rounded as its input, or by it; a runtime need not round what it reads."""
    raise Refusal(
        f"{_types(node)[1]}, which would round the result of the map instead of what it is applied to"
    )


def _cast_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:  # noqa: ARG001
    """After an exact Cast there are more digits for a map than before it, so nothing gets worse."""
    exact, what = _types(node)
    if not exact:
        raise Refusal(f"{what}, which would round what the map is applied to instead of its result")
    if set(fields) != {0}:
        raise Refusal(f"{label(node)} is used in an unusual way")
    return dict(fields)


def _part(network: Network, value: ir.Value | None, field: Field) -> Field:
    """The map of the result as one of an operand; a constant one is simply enlarged."""
    if network.constants.holds(value):
        return field
    return field.restricted(network.dims(value))


def _sum_pull(sign: float) -> Pull:
    """Of a + b, both get the scale, one of them the shift; a - b: likewise, with its sign."""

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
        field = fields[0]
        scaled = {index: _part(network, value, field.scaling) for index, value in enumerate(node.inputs)}
        if not field.shifts:
            return [scaled]
        answers, reason = [], Refusal("")
        for bearer, value in enumerate(node.inputs):
            whole = Field(field.scale, -field.shift) if bearer and sign < 0 else field
            try:
                answers.append({**scaled, bearer: _part(network, value, whole)})
            except Refusal as refusal:
                reason = refusal
        if sign > 0 and len(set(node.inputs)) == 1:  # x + x: half of the shift each
            half = Field(field.scale, field.shift / len(node.inputs))
            answers = [dict.fromkeys(range(len(node.inputs)), half)]
        if not answers:
            raise reason
        return answers

    return pull


def _sum_push(sign: float) -> Push:
    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        rank = network.rank(node.outputs[0])
        lifted = {index: field.lifted(rank) for index, field in fields.items()}
        scale = next(iter(lifted.values())).scale if len(fields) == len(node.inputs) else np.ones([1] * rank)
        if any(not np.array_equal(field.scale, scale) for field in lifted.values()):
            raise Refusal(f"only one operand of {label(node)} is scaled")
        shifts = [field.shift * (sign if index else 1.0) for index, field in lifted.items()]
        share = len(node.inputs) if node.op_type == "Mean" else 1
        return {0: Field(scale, sum(shifts[1:], start=shifts[0]) / share)}

    return push


def _product_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """(s a) * b = s (a * b), and the same for a quotient."""
    only_scale(fields[0], node)
    answers, reason = [], Refusal("")
    for index, value in enumerate(node.inputs[: 1 if node.op_type == "Div" else 2]):
        try:
            answers.append({index: fields[0].restricted(network.dims(value))})
        except Refusal as refusal:
            reason = refusal
    if not answers:
        raise reason
    return answers


def _product_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
    if set(fields) == {0, 1} or (1 in fields and node.op_type == "Div"):
        raise Refusal(f"both operands of {label(node)} are scaled")
    (field,) = fields.values()
    only_scale(field, node)
    return {0: field.lifted(network.rank(node.outputs[0]))}


def _each(first: int = 0, *, ordered: bool = False) -> Passing:
    """An operator of which every element is one of its operands', from input `first` on, or their mean.

    All get the map. If it is `ordered` that decides, as of an extreme value, the map keeps the order.
    """

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
        if ordered:
            unsigned(fields[0], node)
        operands = list(enumerate(node.inputs))[first:]
        return [{index: _part(network, value, fields[0]) for index, value in operands}]

    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        lifted = [field.lifted(network.rank(node.outputs[0])) for field in fields.values()]
        operands = set(range(first, len(node.inputs)))
        if set(fields) != operands or any(not field.same(lifted[0]) for field in lifted):
            raise Refusal(f"the operands of {label(node)} get different maps")
        if ordered:
            unsigned(lifted[0], node)
        return {0: lifted[0]}

    return Passing(frozenset(), pull, push)


COMPUTING: dict[str, Passing] = {
    "Abs": same_both_ways(_rectified),
    "Add": Passing(frozenset(), _sum_pull(1.0), _sum_push(1.0)),
    "Cast": Passing(frozenset({"round_mode", "saturate", "to"}), _cast_pull, _cast_push),
    "Clip": same_both_ways(_clipped, "max", "min"),
    "Div": Passing(frozenset(), _product_pull, _product_push),
    "Dropout": same_both_ways(_undropped, "ratio", "seed"),
    "LeakyRelu": same_both_ways(_rectified, "alpha"),
    "Max": _each(ordered=True),
    "Mean": Passing(frozenset(), _each().pull, _sum_push(1.0)),
    "Min": _each(ordered=True),
    "Mul": Passing(frozenset(), _product_pull, _product_push),
    "PRelu": same_both_ways(_sloped),
    "Relu": same_both_ways(_rectified),
    "Sub": Passing(frozenset(), _sum_pull(-1.0), _sum_push(-1.0)),
    "Sum": Passing(frozenset(), _sum_pull(1.0), _sum_push(1.0)),
    "Trilu": same_both_ways(_zeroed, "upper"),
    "Where": _each(first=1),
}
"""Operators that compute and let some maps through."""
