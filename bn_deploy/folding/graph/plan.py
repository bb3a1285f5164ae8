"""What folding one chain would change: planned whole, checked whole, then done whole."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.chains import Chain
from bn_deploy.folding.graph.constants import check_cast, overflows
from bn_deploy.folding.graph.field import Array, Field, compact
from bn_deploy.folding.graph.links import Link
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.weights import Edit
from bn_deploy.folding.outcome import Refusal

_SPARE_BITS = 4
"""How many binary digits writing a batch norm as one scale and one shift may cost."""


@dataclass
class Plan:
    """Changes that together leave what the network computes as it is.

    Attributes:
        edits: linear operators that get new weights.
        operands: constant operands that get new numbers, by node and input.
        erased: chains that go.
        rewritten: chains that compute another map from now on.
        rules: what absorbs, and through what the map passed on its way, for the report.
        passed: likewise.
        nodes: who absorbs.
    """

    edits: list[Edit] = field(default_factory=list)
    operands: dict[tuple[ir.Node, int], Array] = field(default_factory=dict)
    erased: list[Chain] = field(default_factory=list)
    rewritten: dict[Chain, Field] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    nodes: list[ir.Node] = field(default_factory=list)

    def absorbed_by(self, node: ir.Node, rule: str) -> None:
        """Notes who absorbs the map, and by which rule."""
        self.nodes.append(node)
        if rule not in self.rules:
            self.rules.append(rule)

    def passes(self, network: Network, node: ir.Node) -> None:
        """Notes what the map passes.

        Raises:
            Refusal: all maps have passed too many.
        """
        network.go()
        if node.op_type not in self.passed:
            self.passed.append(node.op_type)

    def through(self) -> str:
        """The end of the rule in reports."""
        return f" through {', '.join(self.passed)}" if self.passed else ""

    @property
    def warning(self) -> str | None:
        """What a person should know of the new numbers."""
        found = [f"{label(edit.node)}: {edit.warning}" for edit in self.edits if edit.warning is not None]
        return "; ".join(dict.fromkeys(found)) or None

    def check(self, network: Network) -> None:
        """Rules out that a number does not fit its type, or an array its place.

        Raises:
            Refusal: one does not.
        """
        for edit in self.edits:
            if edit.added is not None:
                _fits(edit.added, edit.node.outputs[0])
        for chain, changed in self.rewritten.items():
            _fits(changed, chain.result)
            for end in (chain.source, chain.result):
                dims = network.dims(end)
                if not all(isinstance(dims[axis], int) for axis in changed.varying):
                    raise Refusal(f"the size of {label(end)} is not known where the map varies")
        for (node, index), array in self.operands.items():
            value = node.inputs[index]
            if value is None or value.dtype is None:
                raise Refusal(f"the type of an operand of {label(node)} is not known")
            check_cast(array, value.dtype, "operands")


def _fits(changed: Field, value: ir.Value) -> None:
    """Refuses a map whose numbers do not fit the type of `value`."""
    if value.dtype is None:
        raise Refusal(f"the type of {label(value)} is not known")
    check_cast(changed.scale, value.dtype, "scales")
    if overflows(changed.shift, value.dtype):
        raise Refusal(f"the folded shifts overflow {value.dtype.numpy().name}")


def commit(network: Network, plan: Plan) -> None:
    """Does what is planned."""
    for edit in plan.edits:
        _write_weights(network, edit)
    for (node, index), array in plan.operands.items():
        value = node.inputs[index]
        assert value is not None and value.dtype is not None  # noqa: S101, PT018 - `check` has read it
        node.replace_input_with(index, network.constants.exact(array, value.dtype, value.name))
    for chain, changed in plan.rewritten.items():
        rewrite(network, chain, changed)
    for chain in plan.erased:
        erase(network, chain)


def rewrite(network: Network, chain: Chain, changed: Field) -> None:
    """Lets `chain` be the one or two nodes that compute `changed`, after its first if that centres."""
    first, result = chain.links[0], chain.result
    name = result.name
    rest = _after_centring(first, changed) if len(chain.links) > 1 else None
    stays = [] if rest is None else [first]
    old = [part.node for part in chain.links[len(stays) :]]
    source = first.node.outputs[0] if stays else chain.source
    chain.links = [*stays, *_emit(network, rest or changed, source, result, old[-1])]
    chain.field = changed
    if chain.result.name != name:  # the tensor is still found under its name
        result.name, chain.result.name = network.constants.fresh(f"{name}.old"), name
    _remove(network, old)


def _after_centring(first: Link, changed: Field) -> Field | None:
    """What `changed` does after a chain has subtracted its mean, if doing both at once would lose digits.

    s (x - m) + r rounds to the size of the result, which is about one for what was normalized, but
    s x + (r - s m) to that of the mean in deviations: each factor of two is a digit in base two.
    """
    if first.field.scales or not first.field.shifts:
        return None
    rest = Field(changed.scale, changed.shift - changed.scale * first.field.shift)
    lost = np.abs(changed.shift).max() / (1 + np.abs(rest.shift).max())
    return rest if lost > 2**_SPARE_BITS and not rest.is_identity else None


def erase(network: Network, chain: Chain) -> None:
    """Takes a chain out: whoever read its result reads its source."""
    source, result, nodes = chain.source, chain.result, [part.node for part in chain.links]
    if result.is_graph_output() and (source.producer() is None or source.is_graph_output()):
        # What already has a name outside cannot take another.
        node = ir.Node(
            "", "Identity", [source], outputs=[network.like(result, network.constants.fresh(label(result)))]
        )
        network.position[node] = network.position[nodes[-1]]
        network.graph.insert_after(nodes[-1], node)
        source = node.outputs[0]
    _hand_over(network, result, source)
    _remove(network, nodes)


def _emit(network: Network, changed: Field, source: ir.Value, result: ir.Value, place: ir.Node) -> list[Link]:
    """Writes `changed`, applied to `source`, after `place`; whoever read `result` reads it from now on."""
    dtype = result.dtype
    assert dtype is not None  # noqa: S101 - `_fits` has read it
    ones = np.ones([1] * changed.rank)
    steps = [("Mul", changed.scale, changed.scaling)] if changed.scales or not changed.shifts else []
    steps += [("Add", changed.shift, Field(ones, changed.shift))] if changed.shifts else []
    value, links = source, []
    for number, (op_type, array, part) in enumerate(steps, 1):
        name = f"{label(result)}.{op_type.lower()}"
        output = network.like(result, network.constants.fresh(name))
        inputs = [value, network.constants.exact(array, dtype, name)]
        node = ir.Node("", op_type, inputs, outputs=[output], name=output.name)
        network.position[node] = network.position[place] + number / 8
        links.append(Link(node, 0, part, per_channel=op_type == "Mul"))
        value = output
    network.graph.insert_after(place, [part.node for part in links])
    _hand_over(network, result, value, links[0].node)
    return links


def _hand_over(network: Network, old: ir.Value, new: ir.Value, keeping: ir.Node | None = None) -> None:
    """Lets all readers of `old` but one read `new`, which takes over if `old` is an output of the network."""
    for node, index in network.uses(old):
        if node is not keeping:
            node.replace_input_with(index, new)
    if old.is_graph_output():
        name = old.name
        old.name = network.constants.fresh(f"{name}.old")
        new.name, new.type, new.doc_string = name, old.type, old.doc_string
        new.shape = None if old.shape is None else old.shape.copy()
        new.metadata_props.update(old.metadata_props)
        outputs = network.graph.outputs
        for index in [i for i, output in enumerate(outputs) if output is old]:
            outputs[index] = new


def _remove(network: Network, nodes: list[ir.Node]) -> None:
    network.graph.remove(nodes, safe=True)


def _write_weights(network: Network, edit: Edit) -> None:
    """Gives a linear operator its new weights, and an Add after it where it has no bias to take."""
    node, dtype = edit.node, edit.base.dtype
    assert dtype is not None  # noqa: S101 - the edit was checked
    factor = compact(edit.factor)
    if (factor != 1).any() or node.inputs[edit.index] is not edit.base:
        node.replace_input_with(edit.index, network.constants.scaled(edit.base, factor))
    if edit.bias is not None:
        place = edit.index + 1
        if len(node.inputs) <= place:
            node.resize_inputs(place + 1)
        old = node.inputs[place]
        weight = node.inputs[edit.index]
        name = old.name if old is not None else f"{weight.name if weight else label(node)}.bias"
        node.replace_input_with(place, network.constants.exact(edit.bias, dtype, name))
        node.attributes.pop("beta", None)  # the new bias holds it
    if edit.added is not None:
        _emit(network, edit.added, node.outputs[0], node.outputs[0], node)
