"""Folding forwards (law 3): the map of a chain goes into everything that reads the chain's result."""

from __future__ import annotations

import heapq
from dataclasses import replace

import onnx_ir as ir

from bn_deploy.folding.graph.chains import Chain, Chains
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.linear import Operator, operator_of
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.plan import Plan
from bn_deploy.folding.graph.ways import passing
from bn_deploy.folding.outcome import Refusal


def forward(network: Network, chains: Chains, chain: Chain) -> Plan:
    """The plan that lets all that read `chain` absorb it.

    Raises:
        Refusal: there is none, with the reason.
    """
    return _Walk(network, chains).walk(chain)


class _Walk:
    """One walk towards the outputs.

    Attributes:
        plan: what it would change.
        lacking: the map that each input of a node to come lacks.
        absorbing: linear operators that were reached and take any shift, and the map each gets.
        queue: those nodes, the earliest first, so that all inputs of a node are known when it is reached.
    """

    def __init__(self, network: Network, chains: Chains) -> None:
        self.network, self.chains = network, chains
        self.plan = Plan()
        self.lacking: dict[ir.Node, dict[int, Field]] = {}
        self.absorbing: list[tuple[Operator, ir.Node, Field]] = []
        self.queue: list[tuple[float, int, ir.Node]] = []

    def walk(self, chain: Chain) -> Plan:
        self.plan.erased.append(chain)
        self._tell(chain.result, chain.field)
        while self.queue:
            _, _, node = heapq.heappop(self.queue)
            self._visit(node, self.lacking[node])
        if not self.plan.nodes:
            raise Refusal(f"nothing reads {label(chain.result)}")
        # New weights are much work, so not before all else is known to be right.
        self.plan.edits += [row.before(self.network, node, field) for row, node, field in self.absorbing]
        self.plan.check(self.network)
        return self.plan

    def _tell(self, value: ir.Value, field: Field) -> None:
        """Tells all readers of `value` that it comes without `field`."""
        if field.is_identity:
            return
        seen = self.network.seen_outside(value)
        if seen is not None:
            raise Refusal(f"{label(value)} {seen}")
        for node, index in self.network.uses(value):
            if not self.network.heeds(node, index):
                continue
            if node not in self.lacking:
                self.lacking[node] = {}
                heapq.heappush(self.queue, (self.network.position[node], len(self.lacking), node))
            self.lacking[node][index] = field

    def _visit(self, node: ir.Node, fields: dict[int, Field]) -> None:
        """Lets `node` absorb what its inputs lack, or passes that on to its readers."""
        after = self.chains.of(node)
        if after is not None:
            self._compose(node, after, fields)
            return
        operator = operator_of(self.network, node)
        if operator is None:
            lacking = passing(self.network, node).push(self.network, node, fields)
            self.plan.passes(self.network, node)
            for index, field in lacking.items():
                self._tell(node.outputs[index], field)
            return
        if len(fields) != 1 or not self._reads_data(node, *fields):
            raise Refusal(f"the weights of {label(node)} are not constant")
        (field,) = fields.values()
        if operator.has_bias:
            self.absorbing.append((operator, node, field))
        else:
            edit = operator.before(self.network, node, field)
            if edit.added is not None and self._added_next(node):
                self._tell(node.outputs[0], edit.added)
                edit = replace(edit, added=None)
            self.plan.edits.append(edit)
        self.plan.absorbed_by(node, f"bn-{operator.rule}")

    def _added_next(self, node: ir.Node) -> bool:
        """Whether what follows is a chain, which can take a shift."""
        value = node.outputs[0]
        uses = self.network.uses(value)
        alone = len(uses) == 1 and self.network.seen_outside(value) is None
        return alone and self.chains.starting_at(*uses[0]) is not None

    def _reads_data(self, node: ir.Node, index: int) -> bool:
        """Whether what changes is the data of a linear operator, and its weight is constant."""
        return index == 0 or node.op_type in ("Einsum", "MatMul")

    def _compose(self, node: ir.Node, after: Chain, fields: dict[int, Field]) -> None:
        """A batch norm takes the map, and any chain a shift; else the chain goes along with the map."""
        if list(fields) != [after.head[1]] or node is not after.head[0]:
            raise Refusal(f"{label(node)} is used in an unusual way")
        (field,) = fields.values()
        composed = field.then(after.field)
        if after.batchnorms or not field.scales:
            self.plan.rewritten[after] = composed
            self.plan.absorbed_by(node, "bn-bn" if after.batchnorms else "bn-add")
        else:
            self.plan.erased.append(after)
            self._tell(after.result, composed)
