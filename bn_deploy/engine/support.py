"""Which nodes of an ONNX file TensorRT cannot import; nothing is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.engine import api, knobs, messages, onnx_input
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.build import builder_of, gpu_to_build_on
from bn_deploy.engine.options import BuildOptions


@dataclass(frozen=True)
class Unsupported:
    """A node that cannot be imported.

    Attributes:
        index: its place in the ONNX graph; None if the parser's complaint is about no node.
        name: its name there, or its first output where it has none.
        operator: its ONNX operator.
        reason: what the parser says.
    """

    index: int | None
    name: str
    operator: str
    reason: str


@dataclass(frozen=True)
class DryRun:
    """What a parser makes of a file.

    Attributes:
        tensorrt: which TensorRT was asked.
        nodes: how many nodes the graph has.
        unsupported: those that it cannot import; none means that a build gets past the parser.
    """

    tensorrt: str
    nodes: int
    unsupported: tuple[Unsupported, ...]

    @property
    def exit_code(self) -> int:
        """1 if anything is unsupported."""
        return int(bool(self.unsupported))

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "tensorrt": self.tensorrt,
            "nodes": self.nodes,
            "unsupported": [vars(node) for node in self.unsupported],
        }


def dry_run(
    onnx_path: str | Path, *, options: BuildOptions | None = None, trt: TensorRT | None = None
) -> DryRun:
    """Parses the ONNX file at `onnx_path` and lists what TensorRT cannot import.

    Args:
        onnx_path: the network, in one file.
        options: what a build would be asked for; the defaults of BuildOptions if None.
        trt: which TensorRT; the one that `api.find` prefers if None.

    Raises:
        NotAvailable: there is no TensorRT, or the one there is works only where there is a GPU.
        ModelError: the file is no ONNX file.
        InputError: it cannot be read, or an option does not fit this TensorRT.
    """
    source = onnx_input.read(Path(onnx_path))
    trt = trt or api.find()
    gpu_to_build_on(trt)
    knobs.check(options or BuildOptions(), trt)
    with trt.listen() as log:
        builder = builder_of(trt)
        network = builder.create_network(trt.network_flags)
        parser = trt.module.OnnxParser(network, trt.logger)
        fine, taken = _asked(parser, source.data)
        found = {index: messages.NO_IMPORTER for index in range(len(source.nodes)) if index not in taken}
        if not trt.strongly_typed:
            found |= dict.fromkeys(source.half_scales, messages.HALF_SCALE)
        strays = []
        for number in range(parser.num_errors):
            parser_error = parser.get_error(number)
            index = _index(parser_error, source.nodes)
            reason = messages.parser_reason(parser_error)
            if index is None:
                strays.append(Unsupported(None, "", "", reason))
            else:
                found[index] = reason
        nodes = [_unsupported(index, source.nodes[index], found[index]) for index in sorted(found)]
        if not (fine or nodes or strays):
            strays.append(Unsupported(None, "", "", messages.said(log)))
    return DryRun(str(trt), len(source.nodes), (*nodes, *strays))


def _asked(parser: Any, model: bytes) -> tuple[bool, set[int]]:
    """Whether the parser takes the model, and the nodes of the parts that it takes.

    A part that is marked as unsupported counts as taken all the same: the parsers of 8.5 and of TensorRT-RTX
    mark every part of a model so, as soon as one node cannot be imported, and leave that node out of all.
    """
    if hasattr(parser, "supports_model_v2"):  # 10 and later
        fine = bool(parser.supports_model_v2(model))
        parts = [parser.get_subgraph_nodes(number) for number in range(parser.num_subgraphs)]
    else:
        fine, collection = parser.supports_model(model)
        parts = [nodes for nodes, _ in collection]
    return fine, {index for part in parts for index in part}


def _index(parser_error: Any, nodes: Sequence[Any]) -> int | None:
    """The node of the graph that an error is about.

    From 10 on the error's number counts within a subgraph, so the name is the better witness.
    """
    if hasattr(parser_error, "node_name") and parser_error.node_name():
        named = [index for index, node in enumerate(nodes) if node.name == parser_error.node_name()]
        if len(named) == 1:
            return named[0]
    return parser_error.node() if 0 <= parser_error.node() < len(nodes) else None


def _unsupported(index: int, node: Any, reason: str) -> Unsupported:
    return Unsupported(index, node.name or next(iter(node.output), f"node {index}"), node.op_type, reason)
