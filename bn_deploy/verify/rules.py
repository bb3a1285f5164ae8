"""What each operator does to errors: how far its result may be off, given how far its operands are.

A rule is handed the operands in float64, a bound of the error of each, and the unit roundoff; it answers with
a bound of the error of the result, what comes through the operands and what the operator itself rounds. The
counts of roundings are those of `tolerance.ROUNDINGS`. An operator without a row in RULES has no rule, and
whatever needs one is refused with its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from bn_deploy.errors import ModelError
from bn_deploy.verify.call import Call, Rule


def _move(call: Call) -> Tensor:
    """Moves numbers: errors move along."""
    errors = [_moved(a, e) for a, e in zip(call.args, call.errors, strict=True)]
    out = call.function(*errors, **call.kwargs)
    return cast(Tensor, out[0] if isinstance(out, (tuple, list)) else out)


def _moved(argument: Any, error: Any) -> Any:
    if isinstance(argument, (list, tuple)) and argument and isinstance(argument[0], Tensor):
        return [_moved(a, e) for a, e in zip(argument, error, strict=True)]
    if not isinstance(argument, Tensor):
        return argument
    return torch.zeros_like(argument) if error is None else error


def _pad(call: Call) -> Tensor:
    """Pads with a constant, which is exact."""
    return cast(Tensor, call.function(_moved(call.args[0], call.errors[0]), call.args[1], 0.0))


def _product(left: int, right: int, added: int | None = None) -> Rule:
    """A sum of products of two tensors; a third one, if there, is added."""

    def rule(call: Call) -> Tensor:
        places = [p for p in (left, right, added) if p is not None and call.args[p] is not None]

        def apply(*tensors: Tensor) -> Tensor:
            args = list(call.args)
            for place, tensor in zip(places, tensors, strict=True):
                args[place] = tensor
            return cast(Tensor, call.function(*args, **call.kwargs))

        sizes = apply(*(call.args[p].abs() for p in places))
        through = torch.zeros_like(sizes)
        if any(call.errors[p] is not None for p in places):
            through = apply(*(call.args[p].abs() + call.off(p) for p in places)) - sizes
        return call.rounded(through, "dot", sizes + through, _terms(call, right) + len(places) - 2)

    return rule


def _terms(call: Call, right: int) -> int:
    """How many products each result of a convolution or matrix product sums."""
    weight = call.args[right]
    if call.function is torch.ops.aten.convolution.default:
        transposed = call.args[6]
        return int(weight.numel() // weight.shape[1 if transposed else 0])
    return int(weight.shape[-2])


def _sum(call: Call) -> Tensor:
    """A sum or difference of two: errors add."""
    if call.kwargs.get("alpha", 1) != 1:
        raise ModelError("a sum with alpha has no rule")
    through = (call.off(0) + call.off(1)).expand_as(call.result)
    return call.rounded(through, "single", call.result.abs() + through)


def _mul(call: Call) -> Tensor:
    a, b = (torch.as_tensor(x, dtype=torch.float64).abs() for x in call.args[:2])
    ea, eb = call.off(0), call.off(1)
    through = (a * eb + b * ea + ea * eb).expand_as(call.result)
    return call.rounded(through, "single", call.result.abs() + through)


def _square(call: Call) -> Tensor:
    if call.args[1] != 2:
        raise ModelError(f"a power of {call.args[1]} has no rule")
    through = call.off(0) * (2 * call.args[0].abs() + call.off(0))
    return call.rounded(through, "single", call.result + through)


def _div(call: Call) -> Tensor:
    if call.kwargs.get("rounding_mode"):
        raise ModelError("a division that rounds to integers has no rule")
    b = torch.as_tensor(call.args[1], dtype=torch.float64).abs() - call.off(1)
    through = (call.off(0) + call.result.abs() * call.off(1)) / b
    through = torch.where(b > 0, through, torch.inf).expand_as(call.result)
    return call.rounded(through, "single", call.result.abs() + through)


def _root(call: Call) -> Tensor:
    x, e = call.args[0], call.off(0)
    through = torch.where(e > 0, e / (x.sqrt() + (x - e).clamp(min=0).sqrt()), e).expand_as(call.result)
    return call.rounded(through, "single", call.result + through)


def _inverse_root(call: Call) -> Tensor:
    x, e = call.args[0], call.off(0)
    low = x - e
    through = torch.where(low > 0, low.rsqrt() - x.rsqrt(), torch.inf)
    return call.rounded(through, "elementary", call.result + through)


def _exp(call: Call) -> Tensor:
    through = call.result * torch.expm1(call.off(0))
    return call.rounded(through, "elementary", call.result + through)


def _squash(slope: Callable[[Tensor], Tensor]) -> Rule:
    """A function to (-1, 1) whose slope falls with |x|: the steepest place that an error reaches counts."""

    def rule(call: Call) -> Tensor:
        e = call.off(0)
        through = e * slope((call.args[0].abs() - e).clamp(min=0))
        return call.rounded(through, "squash", torch.ones_like(call.result))

    return rule


def _steepest(slope: float, kind: str) -> Rule:
    """A function that is nowhere steeper than `slope`, and whose rounding is relative to |x|."""

    def rule(call: Call) -> Tensor:
        through = slope * call.off(0).expand_as(call.result)
        return call.rounded(through, kind, call.args[0].abs() + call.off(0))

    return rule


def _clip(call: Call) -> Tensor:
    """Picks the operand, its size, or a constant: no steeper than 1, and nothing is rounded."""
    return call.off(0).expand_as(call.result)


def _leaky(call: Call) -> Tensor:
    slope = abs(call.args[1]) if len(call.args) > 1 else 0.01
    through = max(1.0, slope) * call.off(0).expand_as(call.result)
    return call.rounded(through, "single", call.result.abs() + through)


def _averaged(call: Call) -> Tensor:
    """An average over a window: the errors are averaged, too."""
    window = call.args[1] if isinstance(call.args[1], (list, tuple)) else [call.args[1]] * 2
    terms = 1
    for size in window:
        terms *= int(size)
    return _linear(call, "average", terms)


def _adaptive(call: Call) -> Tensor:
    """An average over windows of which the largest counts."""
    terms = 1
    for size, made in zip(call.args[0].shape[-2:], call.result.shape[-2:], strict=True):
        terms *= -(-size // made) + 1
    return _linear(call, "average", terms)


def _summed(kind: str) -> Rule:
    """A sum or mean over axes."""

    def rule(call: Call) -> Tensor:
        terms = call.args[0].numel() // max(call.result.numel(), 1)
        return _linear(call, kind, terms)

    return rule


def _linear(call: Call, kind: str, terms: int) -> Tensor:
    rest = call.args[1:]
    through = call.function(_moved(call.args[0], call.errors[0]), *rest, **call.kwargs)
    sizes = call.function(call.args[0].abs(), *rest, **call.kwargs)
    return call.rounded(through, kind, sizes + through, terms)


def _largest(call: Call) -> Tensor:
    """The largest of a window moves by no more than the largest error in it."""
    out = call.function(_moved(call.args[0], call.errors[0]), *call.args[1:], **call.kwargs)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


def _either(call: Call) -> Tensor:
    return torch.maximum(call.off(0), call.off(1)).expand_as(call.result)


def _batch_norm(call: Call) -> Tensor:
    x, weight, bias, mean, var = call.args[:5]
    training, eps = (call.args[5], call.args[7]) if len(call.args) == 8 else (False, call.args[6])
    if training:
        raise ModelError("a batch norm in training mode has no rule: it mixes the images of a batch")
    if any(error is not None for error in call.errors[1:5]):
        raise ModelError("a batch norm with computed statistics has no rule")
    a = torch.rsqrt(var + eps) * (1.0 if weight is None else weight)
    shift = torch.zeros_like(a) if bias is None else bias
    a, rest = (t.reshape(1, -1, *[1] * (x.dim() - 2)) for t in (a.abs(), (mean * a).abs() + shift.abs()))
    through = a * call.off(0)
    return call.rounded(through, "batch_norm", a * x.abs() + rest + through)


def _softmax(call: Call) -> Tensor:
    x, dim = call.args[0], call.args[1]
    reach = call.off(0).expand_as(x).amax(dim, keepdim=True) + call.unit * (
        x.amax(dim, keepdim=True) - x.amin(dim, keepdim=True)
    )
    through = call.result * torch.expm1(2 * reach)
    return call.rounded(through, "softmax", call.result + through, x.shape[dim])


def _logistic_slope(x: Tensor) -> Tensor:
    s = torch.sigmoid(x)
    return s * (1 - s)


_MOVES = (
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "squeeze", "unsqueeze"),
    *("select", "slice", "cat", "stack", "flip", "clone", "detach", "alias", "unfold", "repeat"),
    *("view_copy", "permute_copy", "transpose_copy", "t_copy", "expand_copy", "squeeze_copy"),
    *("unsqueeze_copy", "select_copy", "slice_copy", "alias_copy", "detach_copy", "_reshape_alias"),
    *("upsample_nearest2d", "pixel_shuffle", "lift_fresh_copy"),
)
_CLIPS = ("neg", "abs", "relu", "hardtanh", "clamp", "clamp_min", "clamp_max")

EXACT = frozenset(
    {*_MOVES, *_CLIPS, "constant_pad_nd", "max_pool2d_with_indices", "amax", "maximum", "minimum"}
)
"""Operators that round nothing."""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_CLIPS, _clip),
    "constant_pad_nd": _pad,
    "convolution": _product(0, 1, 2),
    "addmm": _product(1, 2, 0),
    "mm": _product(0, 1),
    "bmm": _product(0, 1),
    "add": _sum,
    "sub": _sum,
    "mul": _mul,
    "div": _div,
    "pow": _square,
    "sqrt": _root,
    "rsqrt": _inverse_root,
    "exp": _exp,
    "sigmoid": _squash(_logistic_slope),
    "tanh": _squash(lambda x: 1 - torch.tanh(x).square()),
    "hardsigmoid": _steepest(1 / 6, "elementary"),
    "hardswish": _steepest(1.5, "gated"),
    "silu": _steepest(1.1, "gated"),
    "gelu": _steepest(1.13, "elementary"),
    "elu": _steepest(1.0, "elementary"),
    "leaky_relu": _leaky,
    "avg_pool2d": _averaged,
    "_adaptive_avg_pool2d": _adaptive,
    "mean": _summed("average"),
    "sum": _summed("sum"),
    "max_pool2d_with_indices": _largest,
    "amax": _largest,
    "maximum": _either,
    "minimum": _either,
    "native_batch_norm": _batch_norm,
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_softmax": _softmax,
}
"""Operators of torch's library, by name. Slopes: silu' <= 1.0999, gelu' <= 1.1290, hardswish' <= 1.5."""
