"""An ONNX model without its large weights: what onnx has to see to judge it and to tell its shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import onnx
import onnx_ir as ir
from onnx import TensorProto

LARGE_BYTES = 1025
"""From this size on a weight is left where it lies; anything smaller may be a shape and is read at once."""

_TYPE_ATTRIBUTES = frozenset({"dtype", "output_dtype", "stash_type", "to"})
"""Attributes that say a type by its number."""


def skeleton(model: ir.Model, large: Mapping[str, ir.TensorProtocol] | None = None) -> onnx.ModelProto:
    """What is in a model; large initializers of the main graph are marked as external, at no place.

    Args:
        model: the model.
        large: its `large_weights`, if they have been looked for before.

    Raises:
        ValueError: what is in it besides them is more than protobuf can hold.
    """
    with _without_large(model.graph, large_weights(model) if large is None else large):
        proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        del tensor.external_data[:]
    return proto


def large_weights(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The large initializers of the main graph, by name."""
    tensors = {name: value.const_value for name, value in model.graph.initializers.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None and _is_large(tensor)}


def _is_large(tensor: ir.TensorProtocol) -> bool:
    """Whether an initializer is one of the large ones."""
    # The size of texts is not known, and of several numbers in one byte a writer has no plain array.
    return tensor.dtype != ir.DataType.STRING and tensor.dtype.bitwidth >= 8 and tensor.nbytes >= LARGE_BYTES


@contextmanager
def _without_large(graph: ir.Graph, large: Mapping[str, ir.TensorProtocol]) -> Iterator[None]:
    """Takes the large initializers out of a graph for a while, and what onnx-ir notes on all of them.

    It would repeat the type and shape of each initializer among those of the values between nodes.
    """
    given = [(value, value.const_value, value.type, value.shape) for value in graph.initializers.values()]
    inputs = set(graph.inputs)
    try:
        for value, *_ in given:
            if (tensor := large.get(str(value.name))) is not None:
                value.const_value = ir.ExternalTensor(
                    "",
                    offset=None,
                    length=None,
                    dtype=tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    doc_string=tensor.doc_string,
                    metadata_props=dict(tensor.metadata_props),
                )
            if value not in inputs and not value.is_graph_output():
                value.type, value.shape = None, None
        yield
    finally:
        for value, given_tensor, kind, shape in given:
            value.const_value, value.type, value.shape = given_tensor, kind, shape


def complete(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a skeleton in which large initializers are inputs: what they hold does not matter.

    Raises:
        ValueError: one of them is declared as an input of another type.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.initializer[:]
    declared = {value.name: value for value in bare.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            bare.graph.initializer.append(tensor)
            continue
        shown = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        if tensor.name not in declared:
            bare.graph.input.append(shown)
        elif not _agree(declared[tensor.name].type.tensor_type, shown.type.tensor_type):
            raise ValueError(f"the initializer {tensor.name} is not of the type of the input of that name")
    return bare


def _agree(declared: onnx.TypeProto.Tensor, given: onnx.TypeProto.Tensor) -> bool:
    """Whether a tensor may be the default of an input."""
    if declared.elem_type != given.elem_type:
        return False
    if not declared.HasField("shape"):
        return True
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in declared.shape.dim]
    known = [size.dim_value for size in given.shape.dim]
    return len(sizes) == len(known) and all(a in {None, b} for a, b in zip(sizes, known, strict=True))


def without_bfloat16(proto: onnx.ModelProto) -> bool:
    """Writes float16 for bfloat16 all over a complete skeleton, unless it has float16 as well.

    Exporters write bfloat16 for operators of versions that do not list it, and runtimes take it; onnx's
    shape inference does not. It has taken float16 from the first version on, and shapes do not depend on it.

    Returns:
        Whether it has: then float16 stands for bfloat16.
    """
    used: set[int] = set()

    def noted(kind: int) -> int:
        used.add(kind)
        return kind

    for part in (proto.graph, *proto.functions):
        _each_type(part, noted)
    if TensorProto.BFLOAT16 not in used or TensorProto.FLOAT16 in used:
        return False
    for part in (proto.graph, *proto.functions):
        _each_type(part, lambda kind: TensorProto.FLOAT16 if kind == TensorProto.BFLOAT16 else kind)
    return True


def _each_type(part: onnx.GraphProto | onnx.FunctionProto, change: Callable[[int], int]) -> None:
    """Replaces every type in a graph, and in the graphs inside its operators."""
    kinds = [value.type for value in part.value_info]
    tensors: list[onnx.TensorProto] = []
    if isinstance(part, onnx.GraphProto):
        kinds += [value.type for value in (*part.input, *part.output)]
        tensors += part.initializer
    for attribute in (attribute for node in part.node for attribute in node.attribute):
        kind = attribute.type
        if kind == onnx.AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES:
            attribute.i = change(attribute.i)
        elif kind in (onnx.AttributeProto.TENSOR, onnx.AttributeProto.TENSORS):
            tensors += [attribute.t, *attribute.tensors]
        elif kind in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
            for inner in (attribute.g, *attribute.graphs):
                _each_type(inner, change)
    while kinds:
        kind = kinds.pop()
        which = kind.WhichOneof("value")
        if which in ("sequence_type", "optional_type"):
            kinds.append(getattr(kind, which).elem_type)
        elif which in ("tensor_type", "sparse_tensor_type"):
            _replace(getattr(kind, which), "elem_type", change)
    for tensor in tensors:
        _replace(tensor, "data_type", change)


def _replace(
    message: onnx.TensorProto | onnx.TypeProto.Tensor, name: str, change: Callable[[int], int]
) -> None:
    """Replaces a type where it changes; to write a field is to say that it is there."""
    old = getattr(message, name)
    if (new := change(old)) != old:
        setattr(message, name, new)
