"""Writes observed courses down as one ONNX graph, for the graph driver to fold.

The graph is never run. Its nodes say what each operator does to an affine map, so an operator may stand there
as another one that lets the same maps through; what has no row in `aten` stands there as it is, foreign and
opaque. Only batch norms and linear operators whose weights can be written back may change; all else is fixed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from bn_deploy.folding.graph.linear import LINEAR_DOMAIN
from bn_deploy.folding.modules.course import Constant, Course, Op, Value

OPSET = 18
_FOREIGN = "torch"

_DTYPES: dict[torch.dtype, ir.DataType] = {
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.int64: ir.DataType.INT64,
    torch.int32: ir.DataType.INT32,
    torch.bool: ir.DataType.BOOL,
}


class Opaque(Exception):
    """An operator is used in a way of which nothing is known but that it depends on its inputs."""


class Translation:
    """One ONNX graph for all courses, and which of its nodes is which operator.

    Attributes:
        model: the graph.
        op_of: the operator that a node stands for.
        nodes: the node of each batch norm and linear operator.
        fixed: the nodes that may not change, each with the reason; `bind` adds to it.
        given: the initializers that hold the network's own numbers.
    """

    def __init__(self) -> None:
        graph = ir.Graph(
            [], [], nodes=[], opset_imports={"": OPSET, LINEAR_DOMAIN: 1, _FOREIGN: 1}, name="courses"
        )
        self.model = ir.Model(graph, ir_version=10)
        self.op_of: dict[ir.Node, Op] = {}
        self.nodes: dict[Op, ir.Node] = {}
        self.fixed: dict[ir.Node, str] = {}
        self.given: set[ir.Value] = set()
        self._values: dict[Value, ir.Value] = {}
        self._constants: dict[int, tuple[ir.Value, Tensor]] = {}
        self._names: Counter[tuple[str, str]] = Counter()

    def write(self, course: Course, table: Mapping[str, Any]) -> None:
        """Appends one course; `table` says how each operator is written."""
        graph = self.model.graph
        for number, value in enumerate(course.inputs):
            graph.inputs.append(self._new(value, f"input {number}"))
        for op in course.ops:
            row = table.get(plain(op.name), Translation._foreign) if op.exact else Translation._foreign
            try:
                row(self, op)
            except Opaque:
                self._foreign(op)
        for value in course.seen:
            if value in self._values:
                graph.outputs.append(self._values[value])

    def node(
        self,
        op: Op,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Any] | None = None,
        output: ir.Value | Value | None = None,
        *,
        domain: str = "",
        free: bool = False,
    ) -> ir.Value:
        """Appends a node; `output` is a value of the course, or one in between, or else the operator's first.

        Args:
            op: what it is part of.
            op_type: the node's operator.
            inputs: what it reads.
            attributes: its attributes.
            domain: the domain of its operator.
            output: what it makes.
            free: whether folding may change it.
        """
        target = output if output is not None else op.outputs[0]
        if isinstance(target, Value):
            target = self._new(target, self._name(op))
        assert target is not None  # noqa: S101 - only operators with a first result have a row
        name = self._unique(self._name(op), "node")
        node = ir.node(op_type, inputs, attributes, domain=domain, outputs=[target], name=name)
        self._append(node, op)
        if free:
            self.nodes[op] = node
        else:
            self.fixed[node] = "it is part of the forward itself"
        return target

    def spread(self, op: Op, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Any]) -> None:
        """Appends a node with all the results of `op`."""
        outputs = [self._new(value, self._name(op)) for value in op.outputs if value is not None]
        name = self._unique(self._name(op), "node")
        node = ir.node(op_type, inputs, attributes, outputs=outputs, name=name)
        self._append(node, op)
        self.fixed[node] = "it is part of the forward itself"

    def between(self, op: Op, like: Value, shape: Sequence[int | str]) -> ir.Value:
        """A value inside an operator that takes several nodes."""
        return self._typed(Value(tuple(shape), like.dtype), self._name(op))

    def read(self, given: Any) -> ir.Value:
        """What stands for a tensor among an operator's arguments.

        Raises:
            Opaque: it is none, or of a type that does not matter here.
        """
        if isinstance(given, Value) and given in self._values:
            return self._values[given]
        if isinstance(given, Constant):
            return self.constant(given.tensor)
        raise Opaque("no tensor")

    def constant(self, tensor: Tensor) -> ir.Value:
        """An initializer with the numbers of `tensor`; the same one for the same tensor."""
        if id(tensor) not in self._constants:
            if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided or tensor.is_meta:
                raise Opaque(f"a constant of {tensor.dtype} on {tensor.device}")
            name = self._unique("constant")
            value = ir.Value(
                name=name,
                shape=ir.Shape(tuple(tensor.shape)),
                type=ir.TensorType(_DTYPES[tensor.dtype]),
                const_value=ir.Tensor(numbers(tensor), dtype=_DTYPES[tensor.dtype], name=name),
            )
            self.model.graph.register_initializer(value)
            self._constants[id(tensor)] = value, tensor
            self.given.add(value)
        return self._constants[id(tensor)][0]

    def array(self, array: Any) -> ir.Value:
        """An initializer for whole numbers that belong to an operator."""
        return self.constant(torch.as_tensor(np.asarray(array, dtype=np.int64)))

    def _foreign(self, op: Op) -> None:
        """An operator of which only its inputs and outputs are known."""
        inputs = []
        for given in op.inputs:
            try:
                inputs.append(self.read(given))
            except Opaque:
                continue
        outputs = [
            self._values[value] if value in self._values else self._new(value, self._name(op))
            for value in op.outputs
            if value is not None
        ]
        node = ir.node(
            plain(op.name).replace(" ", "_"),
            inputs,
            domain=_FOREIGN,
            outputs=outputs or [ir.Value(name=self._unique("nothing"))],
            name=self._unique(self._name(op), "node"),
        )
        if not outputs:
            node.outputs[0].shape, node.outputs[0].type = ir.Shape(()), ir.TensorType(ir.DataType.FLOAT)
            self.model.graph.outputs.append(node.outputs[0])
        self._append(node, op)

    def _append(self, node: ir.Node, op: Op) -> None:
        self.model.graph.append(node)
        self.op_of[node] = op

    def _new(self, value: Value, name: str) -> ir.Value:
        self._values[value] = self._typed(value, name)
        return self._values[value]

    def _typed(self, value: Value, name: str) -> ir.Value:
        dtype = _DTYPES.get(value.dtype, ir.DataType.UINT8)
        return ir.Value(name=self._unique(name), shape=ir.Shape(value.shape), type=ir.TensorType(dtype))

    def _name(self, op: Op) -> str:
        """What reports call a node: the path of its module, or an operator in the forward of one."""
        path = op.call.path
        if op.name.startswith(_OWN):
            return path or "(the network itself)"
        return f"{plain(op.name).removeprefix('aten.')} in {path or 'the forward'}"

    def _unique(self, name: str, kind: str = "value") -> str:
        self._names[name, kind] += 1
        count = self._names[name, kind]
        return name if count == 1 else f"{name} [{count}]"


_OWN = ("aten.batch_norm", "aten.conv", "aten.linear")


def plain(name: str) -> str:
    """The name of an operator without its overload; writing to the first argument is not told apart."""
    parts = name.split(".")
    stem = ".".join(parts[:2])
    return stem.rstrip("_") if not stem.endswith("__") else stem


def numbers(tensor: Tensor) -> Any:
    """The numbers of a tensor as an array; bfloat16, which numpy lacks, as onnx's type for it."""
    held = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    if held.dtype is torch.bfloat16:
        return held.view(torch.int16).numpy().view(ir.DataType.BFLOAT16.numpy())
    return held.numpy()
