"""Writes a network as an ONNX file, and checks that the file is what was asked for."""

from __future__ import annotations

import ast
import inspect as inspect_code
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # onnx's own dependency
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bn_deploy.artifact import write_bytes
from bn_deploy.errors import CheckFailed, InputError, ModelError, first_line
from bn_deploy.spec import TensorSpec

OPSET = 18
"""The newest opset that every TensorRT parser takes and that the exporter writes without converting."""


@dataclass(frozen=True)
class OnnxFile:
    """What is in an ONNX file.

    Attributes:
        path: where it lies.
        census: how often each operator occurs, also in the graphs inside operators and in functions.
        inputs, outputs: what goes in and out.
        metadata: the model's key-value pairs.
    """

    path: Path
    census: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metadata: dict[str, str]

    @property
    def batchnorms(self) -> int:
        """How many BatchNormalization operators it has."""
        return self.census.get("BatchNormalization", 0)


def export(
    network: nn.Module,
    path: str | Path,
    *,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: Mapping[str, str] | None = None,
    batchnorms: int | None = None,
) -> OnnxFile:
    """Writes `network` to `path`; the same network gives the same bytes.

    The exporter's own optimizer is left out, since it would fold batch norms behind our back: of its
    passes only those that compute constants are run. The file says nothing of the machine that wrote it.

    Args:
        network: in eval mode, all of it.
        path: where the file goes.
        inputs: names, shapes and types; a None in a shape becomes a dynamic axis.
        outputs: likewise.
        metadata: key-value pairs to store.
        batchnorms: how many BatchNormalization operators there must be; None asks for nothing.

    Raises:
        ModelError: a part of the network is in training mode, a batch norm keeps no statistics, or the
            network cannot be exported.
        CheckFailed: the file is invalid, or has other inputs, outputs or batch norms than asked for.
        InputError: the metadata are not text, or the file cannot be written.
    """
    path, metadata = Path(path), dict(metadata or {})
    if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise InputError(f"the metadata of an ONNX file are pairs of texts, not {metadata}")
    _require_eval(network)
    model = _to_ir(network, inputs, outputs)
    _clean(model)
    model.metadata_props.clear()
    model.metadata_props.update(sorted(metadata.items()))
    model.producer_name, model.producer_version = "bn-deploy", metadata.get("bn_deploy.version", "")
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CheckFailed(f"the exported graph is not valid ONNX: {first_line(error)}") from error
    summary = _summary(path, proto)
    _ensure(summary, inputs, outputs, batchnorms)
    write_bytes(path, proto.SerializeToString(deterministic=True))
    return summary


def layer_names(
    network: nn.Module, *, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> dict[str, str]:
    """The values of the graph that `export` writes, each with the path of the layer that made it.

    The file itself does not say: what the exporter notes of layers is removed with its other remarks.

    Raises:
        ModelError: the network cannot be exported.
    """
    _require_eval(network)
    names: dict[str, str] = {}
    for node in _to_ir(network, inputs, outputs).graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        if len(scopes) > 1:
            names.update((value.name, scopes[-2]) for value in node.outputs if value.name)
    return names


def inspect(path: str | Path) -> OnnxFile:
    """Reads what is in an ONNX file.

    Raises:
        ModelError: the file is missing, is not valid ONNX, or has inputs or outputs that are no tensors.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path} is a folder, not an ONNX file")
    if not path.is_file():
        raise ModelError(f"there is no ONNX file {path}; `bn-deploy export --fold-bn` makes one")
    try:
        proto = onnx.load_model_from_string(path.read_bytes())  # `load` would follow paths in the file
        onnx.checker.check_model(proto)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ModelError(f"{path} is not a valid ONNX file: {first_line(error)}") from error
    try:
        return _summary(path, proto)
    except ValueError as error:
        raise ModelError(f"{path} cannot be described: {error}") from error


def _require_eval(network: nn.Module) -> None:
    """Refuses a network of which a part is in training mode: it would compute something else than in use."""
    for name, module in network.named_modules():
        if module.training:
            raise ModelError(f"{name or 'the network'} is in training mode; call .eval() before exporting")
        if isinstance(module, _BatchNorm) and module.running_mean is None:
            raise ModelError(
                f"{name or 'the network'} keeps no running statistics (track_running_stats=False), so its "
                "output depends on the batch"
            )


def _as_passed(network: nn.Module, shapes: tuple[Any, ...]) -> Any:
    """The shapes in the structure of the forward's arguments: those of `*args` are one tuple in it."""
    parameters = inspect_code.signature(network.forward).parameters.values()
    rest = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if rest is None:
        return shapes
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][: len(shapes)]
    return {**dict(zip(named, shapes, strict=False)), rest: shapes[len(named) :]}


def _to_ir(network: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ir.Model:
    """Runs PyTorch's exporter without its optimizer."""
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({axis: batch for axis, size in enumerate(s.shape) if size is None} for s in inputs)
    # Two rows: torch.export takes a size of 1 for a constant.
    example = tuple(torch.zeros(spec.bind(2), dtype=getattr(torch, spec.dtype)) for spec in inputs)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                network,
                example,
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes=_as_passed(network, shapes),
            )
    except Exception as error:  # the exporter runs foreign code
        raise ModelError(f"the network cannot be exported to ONNX: {_cause(error)}") from error
    if program is None:
        raise ModelError("the network cannot be exported to ONNX: the exporter returned nothing")
    return program.model


def _clean(model: ir.Model) -> None:
    """Computes what is constant, drops what is unused, and removes every trace of the exporting machine."""
    passes.InlinePass()(model)
    fold_constants_ir(model)
    ir.passes.Sequential(
        RewritePass([materialize_reshape_shape_rule]),
        passes.IdentityEliminationPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        # The exporter records stack traces, source lines and paths in the metadata of nodes and values.
        passes.ClearMetadataAndDocStringPass(),
        passes.NameFixPass(),
    )(model)
    for graph in [model.graph, *model.graph.subgraphs()]:
        results = [value for node in graph for value in node.outputs]
        for value in [*graph.inputs, *graph.initializers.values(), *results]:
            value.metadata_props.clear()  # the pass leaves those of values


def _summary(path: Path, proto: onnx.ModelProto) -> OnnxFile:
    """What `proto` holds."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    return OnnxFile(
        path,
        dict(sorted(Counter(_operators([proto.graph, *proto.functions])).items())),
        tuple(_tensor_spec(value) for value in proto.graph.input if value.name not in constants),
        tuple(_tensor_spec(value) for value in proto.graph.output),
        {entry.key: entry.value for entry in proto.metadata_props},
    )


def _operators(graphs: Iterable[onnx.GraphProto | onnx.FunctionProto]) -> Iterator[str]:
    """The name of every operator in `graphs`, and in the graphs inside their operators."""
    for graph in graphs:
        for node in graph.node:
            yield node.op_type
            for attribute in node.attribute:
                yield from _operators([attribute.g, *attribute.graphs])


def _tensor_spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """What an input or output is; ValueError if it is no tensor of a known type and rank."""
    tensor = value.type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape"):
        raise ValueError(f"{value.name!r} is no tensor of a known type and rank")
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(value.name, sizes, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)


def _ensure(
    summary: OnnxFile, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], batchnorms: int | None
) -> None:
    """Checks what the export promises."""
    if summary.inputs != tuple(inputs) or summary.outputs != tuple(outputs):
        raise CheckFailed(
            f"the exported graph takes {', '.join(map(str, summary.inputs))} and gives "
            f"{', '.join(map(str, summary.outputs))}; asked for were {', '.join(map(str, inputs))} and "
            f"{', '.join(map(str, outputs))}"
        )
    if batchnorms is not None and summary.batchnorms != batchnorms:
        raise CheckFailed(
            f"the exported graph has {summary.batchnorms} BatchNormalization operators, not {batchnorms}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's remarks about packages that are not used here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _cause(error: BaseException) -> str:
    """What the exporter stumbled over; around it the exporter wraps pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
