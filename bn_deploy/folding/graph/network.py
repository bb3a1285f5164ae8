"""What the folding of an ONNX graph asks of it: shapes, uses, constants, and the order of its nodes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

import onnx
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.graph.constants import Constants
from bn_deploy.folding.graph.evaluate import reads_numbers
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.folding.graph.shapes import Refiner, given_dims, inferred_dims, plain
from bn_deploy.folding.outcome import Refusal

OPSETS = range(7, 28)
"""The versions of the operator set whose operators are known."""

_LEAST = 1000
"""How many operators all maps together may pass, however small the network is."""


class Network:
    """The main graph of a model, and what is known of it.

    Args:
        model: functions are inlined.
        fixed: nodes that have to stay as they are, and why.
        infer: let onnx find out types and shapes, even if every value has them.
        written: the skeleton that `model` was read from, as yet unchanged; else one is made.

    Attributes:
        graph: the main graph.
        fixed: as above.
        opset: the version of ONNX's operators.
        constants: what is constant in it.
        norms: the maps of batch norms that have been read, by their constants and eps.
        position: where each node stands in the order of the graph.
        taken_by_name: values that a graph inside an operator hands out without reading them.
    """

    def __init__(
        self,
        model: ir.Model,
        fixed: Mapping[ir.Node, str] = MappingProxyType({}),
        *,
        infer: bool = True,
        written: onnx.ModelProto | None = None,
    ) -> None:
        self.graph, self.fixed = model.graph, fixed
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 0))
        self._typed: list[ir.Value] = []
        given = None if infer else given_dims(model.graph)
        if given is None:
            self._dims, self._typed = inferred_dims(model, written)
        else:
            self._dims = given
        self.constants = Constants(model.graph, model.ir_version)
        self._look_at_constants(model)
        self.norms: dict[tuple[Sequence[ir.Value | None], float], Affine] = {}
        self.position: dict[ir.Node, float] = {node: index for index, node in enumerate(model.graph)}
        self._has_subgraphs = any(True for _ in model.graph.subgraphs())
        self.rest(1.0)
        self.taken_by_name = {
            value.name
            for part in model.graph.subgraphs()
            for value in part.outputs
            if value.producer() is None
        }

    def standard(self, node: ir.Node) -> bool:
        """Whether `node` is one of ONNX's own operators."""
        return node.domain in ("", "ai.onnx") and not node.overload

    def dims(self, value: ir.Value | None) -> Dims:
        """The sizes of `value`.

        Raises:
            Refusal: its rank is not known.
        """
        dims = None if value is None else self._dims.get(value)
        if dims is None and value is not None and value.const_value is not None and value.shape is not None:
            dims = plain(value.shape)
        if dims is None:
            raise Refusal(f"the rank of {label(value)} is not known")
        return dims

    def rank(self, value: ir.Value | None) -> int:
        """How many axes `value` has; Refusal if that is not known."""
        return len(self.dims(value))

    def like(self, value: ir.Value, name: str) -> ir.Value:
        """A new value of the type and shape of `value`."""
        new = ir.Value(name=name, type=value.type, shape=None if value.shape is None else value.shape.copy())
        if value in self._dims:
            self._dims[new] = self._dims[value]
        if not (value.is_graph_output() or value.is_graph_input()):
            self._typed.append(new)
        return new

    def forget(self) -> None:
        """Takes back what was noted on values of which the file says nothing."""
        for value in self._typed:
            if value.shape is None and not value.is_graph_output():
                value.type = None

    def rest(self, share: float) -> None:
        """Lets all maps together pass `share` operators for each node from now on: so the work is linear."""
        self._left = _LEAST + int(share * len(self.position))

    @property
    def is_exhausted(self) -> bool:
        """Whether a map had to stop since all together have passed so many operators."""
        return self._left < 0

    def go(self) -> None:
        """Lets a map pass one more operator.

        Raises:
            Refusal: all maps have passed so many that the network has to be finished.
        """
        self._left -= 1
        if self._left < 0:
            raise Refusal("what could absorb it is far away, as it was for many others")

    def uses(self, value: ir.Value) -> list[tuple[ir.Node, int]]:
        """Who reads `value`, and at which of its inputs."""
        return [(use.node, use.idx) for use in value.uses()]

    def heeds(self, node: ir.Node, index: int) -> bool:
        """Whether the numbers in input `index` of `node` matter, not only their size or type."""
        return not self.standard(node) or reads_numbers(node, index)

    def seen_outside(self, value: ir.Value) -> str | None:
        """Who else than nodes of this graph sees `value`, if anyone does."""
        if value.is_graph_output():
            return "is also an output of the network"
        inside = self._has_subgraphs and any(use.node.graph is not self.graph for use in value.uses())
        if inside or value.name in self.taken_by_name:
            return "is also used inside a subgraph"
        return None

    def is_read(self, value: ir.Value) -> bool:
        """Whether anything depends on `value`."""
        return bool(value.uses()) or value.is_graph_output() or value.name in self.taken_by_name

    def _look_at_constants(self, model: ir.Model) -> None:
        """Finds out what is constant, and with that the sizes that depend on computed numbers."""
        refiner = Refiner(model, self._dims, self.constants)
        for node in self.graph:
            first = node.inputs[0] if node.inputs else None
            try:
                dims = None if first is None else self.dims(first)
            except Refusal:
                dims = None
            self.constants.note(node, dims)
            refiner.refine(node)

    def sweep(self, spared: Collection[ir.Value] = ()) -> list[ir.Node]:
        """Removes what nothing reads, but for `spared`; returns the removed nodes.

        What a foreign operator does besides its outputs is not known, so it stays.
        """
        gone = []
        for node in reversed(list(self.graph)):
            removable = node not in self.fixed and self.standard(node)
            if removable and not any(self.is_read(value) for value in node.outputs):
                self.graph.remove(node, safe=True)
                gone.append(node)
        for name, value in list(self.graph.initializers.items()):
            if value not in spared and not self.is_read(value):
                self.graph.initializers.pop(name)
                if value in self.graph.inputs:
                    self.graph.inputs.remove(value)
        return gone

    def inner_batchnorms(self) -> Iterator[tuple[ir.Node, str]]:
        """Every batch norm inside a subgraph."""
        for part in self.graph.subgraphs():
            for node in part:
                if self.standard(node) and node.op_type == "BatchNormalization":
                    yield node, "it is inside a subgraph, such as the branch of an If or the body of a Loop"


def label(thing: ir.Node | ir.Value | None) -> str:
    """How reports call a node or a value."""
    if thing is None:
        return "(nothing)"
    if isinstance(thing, ir.Node) and not thing.name:
        return next((value.name for value in thing.outputs if value.name), thing.op_type)
    return thing.name or "(unnamed)"
