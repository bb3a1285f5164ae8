"""How torch's linear operators and batch norm are written down in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from bn_deploy.folding.graph.linear import LINEAR_DOMAIN
from bn_deploy.folding.modules.aten import Row, first, value_of, whole, wholes
from bn_deploy.folding.modules.course import Constant, Op, Value
from bn_deploy.folding.modules.translate import Opaque, Translation


def _conv(t: Translation, op: Op) -> None:
    _convolution(t, op, transposed=False)


def _conv_transpose(t: Translation, op: Op) -> None:
    _convolution(t, op, transposed=True)


def _convolution_any(t: Translation, op: Op) -> None:
    _convolution(t, op, transposed=bool(op.arguments["transposed"]))


def _convolution(t: Translation, op: Op, *, transposed: bool) -> None:
    """conv1d to conv3d, and convolution, which all of them become."""
    x, weight, bias = value_of(op, "input"), op.arguments["weight"], op.arguments["bias"]
    if not isinstance(weight, Constant) or not isinstance(bias, (Constant, type(None))):
        raise Opaque("the weights depend on the inputs")
    axes = weight.tensor.dim() - 2
    if len(x.shape) not in (axes + 1, axes + 2):
        raise Opaque("no image")
    attributes: dict[str, Any] = {
        "group": whole(op.arguments["groups"]),
        "strides": wholes(op.arguments["stride"], axes),
        "dilations": wholes(op.arguments["dilation"], axes),
        "kernel_shape": list(weight.tensor.shape[2:]),
    }
    padding = op.arguments["padding"]
    if isinstance(padding, str):
        attributes["auto_pad"] = {"same": "SAME_UPPER", "valid": "VALID"}[padding]
    else:
        attributes["pads"] = wholes(padding, axes) * 2
    if transposed:
        attributes["output_padding"] = wholes(op.arguments["output_padding"], axes)
    operator = "ConvTranspose" if transposed else "Conv"
    weights = [t.read(weight), None if bias is None else t.read(bias)]
    if len(x.shape) == axes + 2:
        t.node(op, operator, [t.read(x), *weights], attributes, free=True)
        return
    one, made = (t.between(op, x, (1, *value.shape)) for value in (x, first(op)))  # an image without batch
    t.node(op, "Unsqueeze", [t.read(x), t.array([0])], output=one)
    t.node(op, operator, [one, *weights], attributes, made, free=True)
    t.node(op, "Squeeze", [made, t.array([0])])


def _linear(t: Translation, op: Op) -> None:
    weight, bias = op.arguments["weight"], op.arguments["bias"]
    if not isinstance(weight, Constant) or not isinstance(bias, (Constant, type(None))):
        raise Opaque("the weights depend on the inputs")
    if weight.tensor.dim() != 2:
        raise Opaque("a vector")
    inputs = [t.read(value_of(op, "input")), t.read(weight), None if bias is None else t.read(bias)]
    t.node(op, "Linear", inputs, domain=LINEAR_DOMAIN, free=True)


def _addmm(t: Translation, op: Op) -> None:
    """Beta * self + alpha * mat1 @ mat2."""
    bias, matrix = op.arguments["self"], op.arguments["mat2"]
    if not isinstance(bias, Constant) or not isinstance(matrix, Constant):
        raise Opaque("the weights depend on the inputs")
    scaled = bias.tensor if op.arguments["beta"] == 1 else bias.tensor * op.arguments["beta"]
    inputs = [t.read(value_of(op, "mat1")), t.read(matrix), t.constant(scaled)]
    t.node(op, "Gemm", inputs, {"alpha": float(op.arguments["alpha"])}, free=True)


def _matmul(first_name: str, second_name: str) -> Row:
    def row(t: Translation, op: Op) -> None:
        operands = op.arguments[first_name], op.arguments[second_name]
        if any(len(_shape(operand)) < 2 for operand in operands):
            raise Opaque("a vector")
        t.node(op, "MatMul", [t.read(operand) for operand in operands], free=True)

    return row


def _einsum(t: Translation, op: Op) -> None:
    """One index of the input is summed with a matrix, and another one comes in its place."""
    given, result = str(op.arguments["equation"]).replace(" ", "").split("->")
    terms, operands = given.split(","), op.arguments["tensors"]
    pairs = sorted(zip(terms, operands, strict=True), key=lambda pair: isinstance(pair[1], Constant))
    if len(pairs) != 2 or not isinstance(pairs[0][1], Value) or not isinstance(pairs[1][1], Constant):
        raise Opaque("not one matrix")
    (term, x), (matrix, weight) = pairs
    summed, made = set(term) & set(matrix), set(matrix) - set(term)
    rest = [letter for letter in term if letter not in summed]
    plain_letters = len(set(term)) == len(term) and not {".", " "} & set(given)
    if len(summed) != 1 or len(made) != 1 or not plain_letters or sorted([*rest, *made]) != sorted(result):
        raise Opaque("not a matrix product")
    turned = [*rest, *summed]
    sizes = dict(zip(term, x.shape, strict=True)) | dict(zip(matrix, weight.tensor.shape, strict=True))
    before = t.between(op, x, [sizes[letter] for letter in turned])
    after = t.between(op, x, [sizes[letter] for letter in [*rest, *made]])
    t.node(op, "Transpose", [t.read(x)], {"perm": [term.index(letter) for letter in turned]}, before)
    if matrix[0] in made:  # (out, in), as in a linear layer
        inputs = [before, t.read(weight), None]
        t.node(op, "Linear", inputs, output=after, domain=LINEAR_DOMAIN, free=True)
    else:
        t.node(op, "MatMul", [before, t.read(weight)], output=after, free=True)
    order = [[*rest, *made].index(letter) for letter in result]
    t.node(op, "Transpose", [after], {"perm": order})


def _shape(operand: Any) -> Sequence[Any]:
    return operand.shape if isinstance(operand, Value) else operand.tensor.shape


def _batch_norm(t: Translation, op: Op) -> None:
    """batch_norm with moving statistics; with those of the batch, it is opaque."""
    x = value_of(op, "input")
    mean, var = op.arguments["running_mean"], op.arguments["running_var"]
    if op.arguments["training"] or not isinstance(mean, Constant) or not isinstance(var, Constant):
        raise Opaque("batch statistics")
    given = [op.arguments["weight"], op.arguments["bias"]]
    channels = mean.tensor.numel()
    if any(not isinstance(one, (Constant, type(None))) for one in given):
        raise Opaque("weights that depend on the inputs")
    rest = [torch.ones(channels, dtype=mean.tensor.dtype), torch.zeros(channels, dtype=mean.tensor.dtype)]
    vectors = [t.constant(r) if g is None else t.read(g) for g, r in zip(given, rest, strict=True)]
    inputs: list[ir.Value] = [t.read(x), *vectors, t.read(mean), t.read(var)]
    t.node(op, "BatchNormalization", inputs, {"epsilon": float(op.arguments["eps"])}, free=True)


LINEAR: dict[str, Row] = {
    "aten.addmm": _addmm,
    "aten.batch_norm": _batch_norm,
    "aten.bmm": _matmul("self", "mat2"),
    "aten.conv1d": _conv,
    "aten.conv2d": _conv,
    "aten.conv3d": _conv,
    "aten.conv_transpose1d": _conv_transpose,
    "aten.conv_transpose2d": _conv_transpose,
    "aten.conv_transpose3d": _conv_transpose,
    "aten.convolution": _convolution_any,
    "aten.einsum": _einsum,
    "aten.linear": _linear,
    "aten.matmul": _matmul("self", "other"),
    "aten.mm": _matmul("self", "mat2"),
}
"""Batch norm, and the linear operators that may absorb one."""
