"""How torch's operators that compute and yet let some maps through are written down in ONNX."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from bn_deploy.folding.modules.aten import Row, first, scalar, value_of, wholes
from bn_deploy.folding.modules.course import Constant, Op, Value
from bn_deploy.folding.modules.translate import Opaque, Translation


def _identity(t: Translation, op: Op) -> None:
    t.node(op, "Identity", [t.read(value_of(op))])


def _converted(t: Translation, op: Op) -> None:
    x = value_of(op)
    t.node(op, "Identity" if first(op).dtype is x.dtype else _refuse("another type"), [t.read(x)])


def _refuse(reason: str) -> str:
    raise Opaque(reason)


def _dropout(t: Translation, op: Op) -> None:
    if op.arguments["train"]:
        raise Opaque("it drops")
    t.node(op, "Identity", [t.read(value_of(op, "input"))])


def _same(op_type: str, **names: str) -> Row:
    """An operator on one tensor; `names` are the attributes that are taken from its arguments."""

    def row(t: Translation, op: Op) -> None:
        attributes = {name: float(op.arguments[argument]) for name, argument in names.items()}
        t.node(op, op_type, [t.read(value_of(op))], attributes)

    return row


def _prelu(t: Translation, op: Op) -> None:
    x, weight = value_of(op), op.arguments["weight"]
    if not isinstance(weight, Constant):
        raise Opaque("a slope that depends on the inputs")
    if len(x.shape) < 2:
        raise Opaque("no channels")
    slopes = weight.tensor.reshape([1, -1, *[1] * (len(x.shape) - 2)])
    t.node(op, "PRelu", [t.read(x), t.constant(slopes)])


def _operand(t: Translation, given: Any, like: Value) -> ir.Value:
    """A tensor, or a number as one, in the type of the result `like`, to which torch converts it."""
    if isinstance(given, Value) and given.dtype is like.dtype:
        return t.read(given)
    if isinstance(given, Constant) and like.dtype.is_floating_point:
        return t.constant(given.tensor.to(like.dtype))
    return scalar(t, given, like)


def _binary(op_type: str, *, reverse: bool = False) -> Row:
    """Self (op) other, where other may count several times (alpha)."""

    def row(t: Translation, op: Op) -> None:
        result = first(op)
        if not result.dtype.is_floating_point or op.arguments.get("rounding_mode") is not None:
            raise Opaque("whole numbers")
        left, right = (_operand(t, op.arguments[name], result) for name in ("self", "other"))
        alpha = op.arguments.get("alpha", 1)
        if alpha != 1:
            scaled = op.arguments["self" if reverse else "other"]
            if not isinstance(scaled, Value):
                raise Opaque("a scaled constant")
            many = t.between(op, scaled, scaled.shape)
            t.node(op, "Mul", [t.read(scaled), scalar(t, alpha, scaled)], output=many)
            left, right = (many, right) if reverse else (left, many)
        t.node(op, op_type, [right, left] if reverse else [left, right])

    return row


def _fused(op_type: str) -> Row:
    """Addcmul and addcdiv: self + value * tensor1 (op) tensor2."""

    def row(t: Translation, op: Op) -> None:
        result = first(op)
        operands = [_operand(t, op.arguments[name], result) for name in ("self", "tensor1", "tensor2")]
        if op.arguments["value"] != 1 or not result.dtype.is_floating_point:
            raise Opaque("a factor")
        product = t.between(op, result, result.shape)
        t.node(op, op_type, operands[1:], output=product)
        t.node(op, "Add", [operands[0], product])

    return row


def _pool(op_type: str) -> Row:
    def row(t: Translation, op: Op) -> None:
        x = value_of(op) if "self" in op.arguments else value_of(op, "input")
        axes = len(wholes(op.arguments["kernel_size"], 1))
        axes = {"1d": 1, "2d": 2, "3d": 3}.get(op.name.split(".")[1].split("_with")[0][-2:], axes)
        if len(x.shape) != axes + 2 or op.arguments.get("divisor_override") is not None:
            raise Opaque("no batch, or another divisor")
        kernel = wholes(op.arguments["kernel_size"], axes)
        attributes: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": wholes(op.arguments["stride"] or kernel, axes),
            "pads": wholes(op.arguments["padding"], axes) * 2,
            "ceil_mode": int(op.arguments["ceil_mode"]),
        }
        if op_type == "MaxPool":
            attributes["dilations"] = wholes(op.arguments["dilation"], axes)
        else:
            attributes["count_include_pad"] = int(op.arguments["count_include_pad"])
        t.node(op, op_type, [t.read(x)], attributes)
        for other in op.outputs[1:]:  # the indices: they stay as they are, for whoever uses them
            if other is not None:
                t.node(op, "Indices", [t.read(x)], output=other, domain="torch")

    return row


def _adaptive(op_type: str) -> Row:
    """Means, or maxima, over windows that all lie inside: as over the whole."""

    def row(t: Translation, op: Op) -> None:
        x = value_of(op)
        sizes = op.arguments["output_size"]
        if len(x.shape) != (len(sizes) if isinstance(sizes, (list, tuple)) else 1) + 2:
            raise Opaque("no batch")
        t.node(op, op_type, [t.read(x)])
        for other in op.outputs[1:]:
            if other is not None:
                t.node(op, "Indices", [t.read(x)], output=other, domain="torch")

    return row


def _reduce(op_type: str) -> Row:
    def row(t: Translation, op: Op) -> None:
        x, dims = value_of(op), op.arguments.get("dim")
        rank = len(x.shape)
        axes = list(range(rank)) if dims is None or dims == [] else [d % rank for d in wholes(dims, 1)]
        if op.arguments.get("dtype") is not None or len(first(op).shape) not in (rank, rank - len(axes)):
            raise Opaque("another type")
        keepdims = int(bool(op.arguments.get("keepdim", False)))
        t.node(op, op_type, [t.read(x), t.array(axes)], {"keepdims": keepdims})

    return row


def _resized(t: Translation, op: Op) -> None:
    """Each output is one input or a weighted mean of inputs; only the sizes of the places matter."""
    x = value_of(op, "input") if "input" in op.arguments else value_of(op)
    none = ir.Value(name="")
    sizes = t.array([size if isinstance(size, int) else 1 for size in first(op).shape])
    t.node(op, "Resize", [t.read(x), none, none, sizes], {"mode": "linear"})


COMPUTING: dict[str, Row] = {
    **dict.fromkeys(
        ("aten.alias", "aten.clone", "aten.contiguous", "aten.detach", "aten.positive"), _identity
    ),
    **dict.fromkeys(("aten._to_copy", "aten.to", "aten.type_as"), _converted),
    **dict.fromkeys(("aten.alpha_dropout", "aten.dropout", "aten.feature_dropout"), _dropout),
    **{
        f"aten.upsample_{kind}": _resized
        for kind in (
            *("bicubic2d", "bilinear2d", "linear1d", "nearest1d", "nearest2d", "nearest3d", "trilinear3d"),
        )
    },
    **{f"aten._upsample_nearest_exact{n}d": _resized for n in (1, 2, 3)},
    **{f"aten.avg_pool{n}d": _pool("AveragePool") for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d": _pool("MaxPool") for n in (1, 2, 3)},
    **{f"aten.max_pool{n}d_with_indices": _pool("MaxPool") for n in (1, 2, 3)},
    **{f"aten.adaptive_avg_pool{n}d": _adaptive("GlobalAveragePool") for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d": _adaptive("GlobalMaxPool") for n in (1, 2, 3)},
    "aten.add": _binary("Add"),
    "aten.addcdiv": _fused("Div"),
    "aten.addcmul": _fused("Mul"),
    "aten.amax": _reduce("ReduceMax"),
    "aten.amin": _reduce("ReduceMin"),
    "aten.div": _binary("Div"),
    "aten.leaky_relu": _same("LeakyRelu", alpha="negative_slope"),
    "aten.mean": _reduce("ReduceMean"),
    "aten.mul": _binary("Mul"),
    "aten.neg": _same("Neg"),
    "aten.prelu": _prelu,
    "aten.relu": _same("Relu"),
    "aten.rsub": _binary("Sub", reverse=True),
    "aten.sub": _binary("Sub"),
    "aten.sum": _reduce("ReduceSum"),
}
"""Operators that compute and let some maps through."""
