"""Runs of affine maps in a graph, each run composed to one map (law 4), and which of them are batch norms."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import onnx_ir as ir

from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.links import Link, link
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.outcome import Refusal

_SHAPERS = frozenset(
    {"Cast", "Dropout", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)
_DATA_NORMS = frozenset(
    {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "LpNormalization"}
    | {"MeanVarianceNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
)
_MEANS = frozenset({"GlobalAveragePool", "ReduceMean", "ReduceSum"})
_ROOTS = frozenset({"Pow", "Reciprocal", "Sqrt"})


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """A batch norm that wants an outcome.

    Attributes:
        name: the name of its node, or of its output.
        flavour: "onnx" for the operator, "elementwise" for one that is written out.
    """

    name: str
    flavour: str


@dataclass(eq=False)
class Chain:
    """Links in a row, each the only reader of the one before.

    Attributes:
        links: from first to last.
        field: what they compute together.
        batchnorms: those among them that want an outcome.
    """

    links: list[Link]
    field: Field
    batchnorms: list[BatchNorm] = dataclasses.field(default_factory=list)

    @property
    def head(self) -> tuple[ir.Node, int]:
        """The first node, and its input that varies."""
        return self.links[0].node, self.links[0].index

    @property
    def source(self) -> ir.Value:
        """What the map is applied to."""
        node, index = self.head
        value = node.inputs[index]
        assert value is not None  # noqa: S101 - `link` has read it
        return value

    @property
    def result(self) -> ir.Value:
        """What comes out."""
        return self.links[-1].node.outputs[0]

    @property
    def is_short(self) -> bool:
        """Whether nothing simpler could be written: a batch norm, or a Mul and an Add, perhaps centred."""
        kinds = [part.node.op_type for part in self.links]
        if len(kinds) > 1 and kinds[0] in ("Add", "Sub") and self.links[0].index == 0:
            kinds = kinds[1:]
        return kinds in (["BatchNormalization"], ["Mul"], ["Add"], ["Mul", "Add"])


class Chains:
    """All chains of a network, by their nodes.

    Attributes:
        all: in the order of the graph.
        refused: batch norms that are no affine map of constant numbers, with the reason.
    """

    def __init__(self, network: Network, known: dict[ir.Node, list[BatchNorm]]) -> None:
        """Finds them; `known` remembers, from an earlier look, which nodes stand for which batch norms."""
        self._network = network
        self._of: dict[ir.Node, Chain] = {}
        self.all: list[Chain] = []
        self.refused: dict[BatchNorm, str] = {}
        for node in network.graph:
            if node in network.fixed:
                if network.standard(node) and node.op_type == "BatchNormalization":
                    self.refused[BatchNorm(label(node), "onnx")] = network.fixed[node]
                continue
            try:
                found = link(network, node)
            except Refusal as refusal:
                self.refused[BatchNorm(label(node), "onnx")] = str(refusal)
                continue
            if found is not None:
                self._add(found)
        for chain in self.all:
            chain.batchnorms = self._batchnorms(chain, known)

    def of(self, node: ir.Node | None) -> Chain | None:
        """The chain that `node` is part of."""
        return None if node is None else self._of.get(node)

    def moved(self, chain: Chain) -> None:
        """Notes that `chain` consists of other nodes than before."""
        self._of.update((part.node, chain) for part in chain.links)

    def starting_at(self, node: ir.Node, index: int) -> Chain | None:
        """The chain that begins with input `index` of `node`."""
        chain = self._of.get(node)
        return chain if chain is not None and chain.head == (node, index) else None

    def _add(self, new: Link) -> None:
        """Appends a link to the chain before it, if it is that chain's only reader."""
        value = new.node.inputs[new.index]
        chain = None if value is None else self._of.get(value.producer())  # type: ignore[arg-type]
        if value is not None and chain is not None and len(value.uses()) == 1:
            try:
                composed = chain.field.then(new.field)
            except Refusal:
                composed = None
            if composed is not None and self._network.seen_outside(value) is None:
                chain.links.append(new)
                chain.field = composed
                self._of[new.node] = chain
                return
        chain = Chain([new], new.field)
        self.all.append(chain)
        self._of[new.node] = chain

    def _batchnorms(self, chain: Chain, known: dict[ir.Node, list[BatchNorm]]) -> list[BatchNorm]:
        """The batch norms in `chain`: one for each operator, or else one for what is written out."""
        found = []
        for part in chain.links:
            if part.is_batchnorm and part.node not in known:
                known[part.node] = [BatchNorm(label(part.node), "onnx")]
            found += known.get(part.node, [])
        if not found and self._is_written_out(chain):
            node = next(part.node for part in chain.links if part.per_channel)
            found = known[node] = [BatchNorm(label(node), "elementwise")]
        return found

    def _is_written_out(self, chain: Chain) -> bool:
        """Whether elementwise nodes make up a batch norm: a scale per channel that is not another norm's.

        The scale and shift of a layer, group or instance norm belong to that, whether they change anything
        or not, as at its first weights they do not.
        """
        if not any(part.per_channel for part in chain.links):
            return False
        kinds = [part.node.op_type for part in chain.links if not part.field.is_identity]
        its_own = kinds in ([], ["Mul"], ["Add"], ["Mul", "Add"])
        return not (its_own and _is_data_norm(self._network, _maker(chain.source)))


def _is_data_norm(network: Network, node: ir.Node | None) -> bool:
    """Whether what `node` makes is a part of a norm by statistics of the data, or of what it scales by.

    Such a norm divides by, or multiplies with, what varies; subtracts a mean of its input; or makes the
    reciprocal of a root first, to scale that.
    """
    if node is None:
        return False
    if node.op_type in _DATA_NORMS or node.op_type in _ROOTS:
        return True
    varying = [value for value in node.inputs if not network.constants.holds(value)]
    if node.op_type == "Div" and varying[:1] != list(node.inputs[:1]):
        return True
    if node.op_type == "Sub" and len(varying) == 2 and varying[1] is not None:
        mean = _maker(varying[1])
        return mean is not None and mean.op_type in _MEANS
    return node.op_type in ("Div", "Mul") and len(varying) > 1


def _maker(value: ir.Value) -> ir.Node | None:
    """The node that makes the numbers in `value`, which may be rearranged since."""
    node = value.producer()
    while node is not None and node.op_type in _SHAPERS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node
