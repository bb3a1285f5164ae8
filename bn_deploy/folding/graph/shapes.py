"""The sizes of the values of a graph: as the file gives them, as onnx infers them, and what follows of both.

onnx computes sizes with some operators only. Exporters write others as well, Div above all; where `Constants`
knows what they give, onnx is asked once more for the values that depend on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer
from bn_deploy.folding.graph.known import Known
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.onnxfile.skeleton import complete, skeleton, without_bfloat16

_SHAPED_ALIKE = frozenset({"Cast", "CastLike", "Dropout", "Identity"})
"""Operators whose first output is of the shape of their first input."""


def inferred_dims(
    model: ir.Model, written: onnx.ModelProto | None = None
) -> tuple[dict[ir.Value, Dims], list[ir.Value]]:
    """Every shape that onnx can tell; and the values that got a type by it, since the file says none.

    Args:
        model: the model.
        written: the skeleton that it was read from, if it has not been changed since; else one is made.
    """
    try:
        bare = complete(skeleton(model) if written is None else written)
    except ValueError:
        return {}, []  # a value whose shape is not known is left alone
    stands_in = {ir.DataType.FLOAT16: ir.DataType.BFLOAT16} if without_bfloat16(bare) else {}
    proto = _with_shapes(bare, data_prop=True) or _with_shapes(bare, data_prop=False)
    if proto is None:
        return {}, []
    known = {
        info.name: info.type for info in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output)
    }
    found: dict[ir.Value, Dims] = {}
    typed = []
    for value in _values(model.graph):
        tensor = known[value.name].tensor_type if value.name in known else None
        if tensor is not None and tensor.elem_type:
            if value.type is None:
                dtype = ir.DataType(tensor.elem_type)
                value.type = ir.TensorType(stands_in.get(dtype, dtype))
                typed.append(value)
            if tensor.HasField("shape"):
                found[value] = _told(tensor)
    return found, typed


def given_dims(graph: ir.Graph) -> dict[ir.Value, Dims] | None:
    """The shape that each value carries, or None if one carries none, or no type."""
    found = {}
    for value in _values(graph):
        if value.shape is None or value.dtype is None:
            return None
        found[value] = plain(value.shape)
    return found


def plain(shape: Iterable[int | ir.SymbolicDim]) -> Dims:
    """A shape as onnx_ir keeps it, as numbers and names."""
    return tuple(size if isinstance(size, int) else size.value for size in shape)


class Refiner:
    """Finds out more sizes, node by node in the order of the graph.

    Args:
        model: the model.
        dims: the sizes that are known, which it adds to.
        known: what is constant; it has noted a node before that is refined.
    """

    def __init__(self, model: ir.Model, dims: dict[ir.Value, Dims], known: Known) -> None:
        self._opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._imports = [onnx.helper.make_opsetid(*item) for item in model.opset_imports.items()]
        self._ir_version, self._dims, self._known = model.ir_version, dims, known
        self._better: set[ir.Value] = set()

    def refine(self, node: ir.Node) -> None:
        """Finds out the sizes of what `node` makes, if more is known of its inputs than onnx knew."""
        if node.domain not in ("", "ai.onnx") or all(self._is_whole(value) for value in node.outputs):
            return
        if node.op_type == "BatchNormalization":
            self._count_channels(node)
        inputs = [value for value in node.inputs if value is not None]
        news = [value for value in inputs if value in self._better or self._is_computed(value)]
        if news:
            self._ask(node, inputs)
        if node.op_type == "Reshape" and len(inputs) == 2:
            self._copy(node)

    def _is_whole(self, value: ir.Value) -> bool:
        return value in self._dims and all(isinstance(size, int) for size in self._dims[value])

    def _is_computed(self, value: ir.Value) -> bool:
        """Whether `value` holds whole numbers that follow from others."""
        node = value.producer()
        computed = node is not None and node.op_type != "Constant" and self._known.holds(value)
        return computed and value.dtype is ir.DataType.INT64

    def _ask(self, node: ir.Node, inputs: list[ir.Value]) -> None:
        """Asks onnx again, which knows nothing of inner graphs this way."""
        if any(
            attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for attribute in node.attributes.values()
        ):
            return
        types: dict[str, onnx.TypeProto] = {}
        data: dict[str, onnx.TensorProto] = {}
        for value in inputs:
            dims = self._dims.get(value, self._own(value))
            if dims is None or value.dtype is None:
                return
            name = str(value.name)
            types[name] = onnx.helper.make_tensor_type_proto(value.dtype.value, dims)
            numbers = self._known.integers(value) if value.dtype is ir.DataType.INT64 else None
            if numbers is not None:
                array = np.array(numbers, dtype=np.int64).reshape([int(size or 0) for size in dims])
                data[name] = onnx.numpy_helper.from_array(array)
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, "")
            told = onnx.shape_inference.infer_node_outputs(
                schema,
                ir.to_proto(node),
                types,
                data,
                opset_imports=self._imports,
                ir_version=self._ir_version,
            )
        except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
            return
        for value in node.outputs:
            if value.name in told and told[value.name].tensor_type.HasField("shape"):
                self._note(value, _told(told[value.name].tensor_type))

    def _copy(self, node: ir.Node) -> None:
        """Takes over the sizes that a Reshape is told, be it by number or by name."""
        target = self._known.sizes(node.inputs[1])
        if target is None or target.ndim != 1:
            return
        zeros = bool(integer(node, "allowzero", 0))
        sizes = [size if isinstance(size, str) else None if size is None else int(size) for size in target]
        meant = tuple(None if size == -1 or (size == 0 and not zeros) else size for size in sizes)
        self._note(node.outputs[0], meant)

    def _count_channels(self, node: ir.Node) -> None:
        """A batch norm has a scale for each channel of its input, (N, C, ...), and of its output."""
        scale = node.inputs[1]
        sizes = None if scale is None else self._dims.get(scale, self._own(scale))
        values = [node.inputs[0], node.outputs[0]]
        while (maker := values[0].producer() if values[0] is not None else None) is not None:
            if maker.op_type not in _SHAPED_ALIKE or maker.domain not in ("", "ai.onnx"):
                break
            values.insert(0, maker.inputs[0])
        for value in values:
            dims = None if value is None else self._dims.get(value)
            if value is not None and dims is not None and sizes is not None and len(dims) > 1:
                self._note(value, (None, sizes[-1], *[None] * (len(dims) - 2)))

    def _own(self, value: ir.Value) -> Dims | None:
        shape = value.shape if value.const_value is not None else None
        return None if shape is None else plain(shape)

    def _note(self, value: ir.Value, told: Dims) -> None:
        """Adds to what is known of `value`; a number says more than a name, and a name more than nothing."""
        old = self._dims.get(value, (None,) * len(told))
        if len(old) != len(told):
            return
        new = tuple(_better(*pair) for pair in zip(old, told, strict=True))
        if new != self._dims.get(value):
            self._dims[value] = new
            self._better.add(value)


def _better(old: int | str | None, new: int | str | None) -> int | str | None:
    if isinstance(old, int) or new is None:
        return old
    return new if isinstance(new, int) or old is None or old.startswith("unk__") else old


def _with_shapes(proto: onnx.ModelProto, *, data_prop: bool) -> onnx.ModelProto | None:
    """The model with every shape that onnx can tell, or None if it finds a contradiction."""
    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=data_prop)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return None


def _told(tensor: onnx.TypeProto.Tensor) -> Dims:
    return tuple(_size(size) for size in tensor.shape.dim)


def _size(size: onnx.TensorShapeProto.Dimension) -> int | str | None:
    return int(size.dim_value) if size.HasField("dim_value") else (size.dim_param or None)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
