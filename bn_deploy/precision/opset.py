"""Which types an operator takes in which operator set, as ONNX itself says."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from bn_deploy.errors import ModelError
from bn_deploy.precision.formats import Half
from bn_deploy.precision.graph import FLOAT

_OLDEST = 18
"""From here on a newer operator set only lets operators take more, but for those of _CHANGED: read off the
version notes of every operator in onnx 1.23's schemas."""

_CHANGED = {"DFT": 20, "GridSample": 20, "GroupNormalization": 21}
"""Operators whose meaning or attributes changed after that, and when."""


_WORTH = {"Conv", "ConvTranspose", "Gemm", "MatMul", "QuantizeLinear", "DequantizeLinear"}
"""Operators for which an operator set is raised: where the work is, and what must have the type around it."""


def schema(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    """What ONNX says of a node's operator; None of one that is not ONNX's."""
    if node.domain not in {"", "ai.onnx"} or not onnx.defs.has(node.op_type, max_inclusive_version=opset):
        return None
    return onnx.defs.get_schema(node.op_type, opset)


def kinds(node: ir.Node, known: onnx.defs.OpSchema) -> tuple[list[str], list[str]]:
    """The type variable of each input and of each output of a node, such as "T"."""
    return (
        [known.inputs[min(i, len(known.inputs) - 1)].type_str for i in range(len(node.inputs))],
        [known.outputs[min(i, len(known.outputs) - 1)].type_str for i in range(len(node.outputs))],
    )


def halved(node: ir.Node, opset: int, half: Half) -> set[str]:
    """The type variables of a node that may be bound to `half` where they are bound to float32 now.

    A variable that only outputs have follows an attribute, and is none of them.
    """
    known = schema(node, opset)
    if known is None:
        return set()
    allowed = {one.type_param_str: one.allowed_type_strs for one in known.type_constraints}
    used = {
        kind
        for kind, value in zip(kinds(node, known)[0], node.inputs, strict=True)
        if value is not None and value.dtype == FLOAT
    }
    return {kind for kind in used if f"tensor({half.dtype.name.lower()})" in allowed.get(kind, ())}


def raised(model: ir.Model, half: Half, converted: Iterator[ir.Node]) -> int:
    """The lowest operator set, from the model's own up, in which those of `converted` in _WORTH take `half`.

    bfloat16 convolutions are ONNX only since 22. Others that cannot be half in that set stay float32.

    Raises:
        ModelError: the model's own set is too old to be raised, or the set needed changed an operator in it.
    """
    own = model.opset_imports[""]
    newest = onnx.defs.onnx_opset_version()
    needed = own
    for node in (node for node in converted if node.op_type in _WORTH):
        takes = [version for version in range(own, newest + 1) if halved(node, version, half)]
        needed = max(needed, min(takes, default=own))
    if needed == own:
        return own
    why = f"{half.precision.value} asks for operator set {needed}"
    if own < _OLDEST:
        raise ModelError(
            f"{why}, and the model is in {own}, from {_OLDEST} on it can be raised; export it anew"
        )
    for node in model.graph:
        if own < _CHANGED.get(node.op_type, 0) <= needed:
            raise ModelError(
                f"{why}, in which {node.op_type} ({node.name}) means something else; export it anew"
            )
    return needed
