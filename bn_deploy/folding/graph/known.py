"""What is constant in an ONNX graph as exact numbers: what is given, and what follows from it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.arithmetic import FLOATS, ROUNDED_ONCE, Inputs, Numbers, jumps
from bn_deploy.folding.graph.arranging import ARRANGING
from bn_deploy.folding.graph.evaluate import evaluate, is_pure, operands, rearranged, rounded, shape_of
from bn_deploy.folding.graph.field import Array
from bn_deploy.folding.graph.layout import Dims

_OVERRIDABLE_SINCE = 4
"""The IR version since which an initializer that is also an input is only a default."""

_REMEMBERED_BYTES = 1 << 20
"""Larger constants are read and computed again instead of being kept in float64 as well."""

_ALL_REMEMBERED_BYTES = 1 << 26
"""How much is kept in all, so that a network of many small weights is not held in float64 as well."""

_Question = tuple[ir.Value, bool]
"""A value, and whether its numbers are to be those that a runtime has, which rounds after each operator."""

_Origin = tuple[ir.Node, tuple["ir.Value | None", ...], ir.DataType]
"""A node, its inputs and the type of its result as they were: a node that leaves the graph loses them."""


class Known:
    """What is known of one graph. Whoever makes it has it `note` each node, in the order of the graph.

    Args:
        graph: the main graph, sorted; functions are inlined.
        ir_version: the file format's version, which decides whether inputs may have defaults.

    Attributes:
        overridable: inputs of the network, for which an initializer is no more than a default.
    """

    def __init__(self, graph: ir.Graph, ir_version: int) -> None:
        self._defaults_are_inputs = ir_version < _OVERRIDABLE_SINCE
        self.overridable = set() if self._defaults_are_inputs else set(graph.inputs)
        self._held = {value for value in graph.initializers.values() if value not in self.overridable}
        self._pure: dict[ir.Value, _Origin] = {}
        self._sizes: dict[ir.Value, Numbers] = {}
        self._known: dict[_Question, Numbers | None] = {}
        self._remembered_bytes = 0

    def note(self, node: ir.Node, dims: Dims | None) -> None:
        """Finds out whether what `node` makes is constant, given the sizes of its first input."""
        result = node.outputs[0] if node.outputs and node.domain in ("", "ai.onnx") else None
        if result is None or result.dtype is None:
            return
        if is_pure(node) and all(self.holds(value) for value in operands(node, node.inputs)):
            self._pure[result] = node, tuple(node.inputs), result.dtype
            return
        found = shape_of(node, dims) if dims is not None else None
        if any(value in self._sizes for value in node.inputs):
            found = rearranged(node, [self.sizes(value) for value in node.inputs], result.dtype)
        if found is not None and found.dtype != object:
            self._pure[result] = node, tuple(node.inputs), result.dtype
            self._known[result, False] = self._known[result, True] = found
        elif found is not None:
            self._sizes[result] = found

    def sizes(self, value: ir.Value | None) -> Numbers | None:
        """Whole numbers, with names or None where they are not known; None if nothing is."""
        if value is None:
            return None
        if value in self._sizes:
            return self._sizes[value]
        return self.array(value) if self.holds(value) and value.dtype not in FLOATS else None

    def holds(self, value: ir.Value | None) -> bool:
        """Whether `value` is the same in every run."""
        return value is not None and (self._is_given(value) or value in self._pure)

    def array(self, value: ir.Value) -> Numbers | None:
        """The number(s) in `value`: float64 if they are real, as they are otherwise; None if not known."""
        if (value, False) in self._known:
            return self._known[value, False]
        return self._answer((value, False)) if value in self._pure else self._given(value)

    def real(self, value: ir.Value | None) -> Array | None:
        """As `array`, for a tensor of a type in which networks compute; None for all else."""
        if value is None or value.dtype not in FLOATS or not self.holds(value):
            return None
        found = self.array(value)
        return None if found is None else found.astype(np.float64, copy=False)

    def is_real(self, value: ir.Value) -> bool:
        """Whether `real` knows the numbers in `value`; large ones are not read to tell."""
        if value.dtype not in FLOATS or not self.holds(value):
            return False
        return self._is_given(value) or self.array(value) is not None

    def integers(self, value: ir.Value | None) -> list[int] | None:
        """A constant of whole numbers, flattened; None for all else."""
        found = self.array(value) if value is not None and self.holds(value) else None
        if found is None or not np.issubdtype(found.dtype, np.integer):
            return None
        return [int(number) for number in found.reshape(-1)]

    def _is_given(self, value: ir.Value) -> bool:
        return value in self._held and value.const_value is not None

    def _given(self, value: ir.Value) -> Numbers | None:
        """The content of an initializer."""
        if not self._is_given(value) or value.const_value is None:
            return None
        numbers = value.const_value.numpy()
        if value.dtype in FLOATS:
            numbers = numbers.astype(np.float64)
        self._remember((value, False), numbers)
        return numbers

    def _answer(self, question: _Question) -> Numbers | None:
        """What `array` returns; rounded after each operator like a runtime does, if the question says so.

        Large numbers are kept only until the answer is found.
        """
        now: dict[_Question, Numbers | None] = {}
        pending = [question]
        while pending:
            value, rounding = asked = pending[-1]
            if asked in now or asked in self._known:
                pending.pop()
            elif value not in self._pure:
                found = self._given(value)
                if rounding and found is not None and value.dtype is not None:
                    found = rounded(found, value.dtype)
                now[asked] = found
                pending.pop()
            else:
                node, inputs, dtype = self._pure[value]
                strict = rounding or jumps(node, dtype)
                asking = [(v, strict) for v in operands(node, inputs)]
                wanted = [other for other in asking if other not in now and other not in self._known]
                if wanted:
                    pending += wanted
                    continue
                given = {
                    v: now[v, strict] if (v, strict) in now else self._known[v, strict] for v, _ in asking
                }
                arrays = [None if v is None else given.get(v) for v in inputs]
                known = all(array is not None for array in given.values())
                now[asked] = self._computed(node, arrays, dtype, rounding=rounding) if known else None
                self._remember(asked, now[asked])
                pending.pop()
        return now[question] if question in now else self._known[question]

    def _computed(
        self, node: ir.Node, inputs: Inputs, dtype: ir.DataType, *, rounding: bool
    ) -> Numbers | None:
        """What a pure function makes of constants."""
        sure = node.op_type in ROUNDED_ONCE or node.op_type in ARRANGING or dtype not in FLOATS
        if rounding and not sure:
            return None
        found = evaluate(node, inputs, dtype)
        return rounded(found, dtype) if rounding and found is not None else found

    def _remember(self, question: _Question, numbers: Numbers | None) -> None:
        size = 0 if numbers is None else numbers.nbytes
        if size <= min(_REMEMBERED_BYTES, _ALL_REMEMBERED_BYTES - self._remembered_bytes):
            self._known[question] = numbers
            self._remembered_bytes += size
