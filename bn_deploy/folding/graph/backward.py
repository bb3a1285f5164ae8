"""Folding backwards (law 2): the map of a chain goes into whatever makes the chain's input."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

import onnx_ir as ir

from bn_deploy.folding.graph.chains import Chain, Chains
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.linear import Operator, operator_of
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Passing
from bn_deploy.folding.graph.plan import Plan
from bn_deploy.folding.graph.ways import passing
from bn_deploy.folding.outcome import Refusal

_ATTEMPTS = 32
"""How many combinations of answers are tried. Each is sound: to stop early only keeps a batch norm."""


@dataclass
class _Attempt:
    """One walk towards the inputs.

    Attributes:
        plan: what it would change.
        maps: which map each value gets.
        covered: by whom, at which input, that map was asked for.
        asked: which choice asked for it: the nearest node on the way that had several answers.
        joined: values that get several maps, one after the other.
        absorbing: linear operators that were reached, the map each gets, and which choice led there.
        queue: nodes to come, the latest first, so that all who ask a node have asked when it is reached.
    """

    plan: Plan = field(default_factory=Plan)
    maps: dict[ir.Value, Field] = field(default_factory=dict)
    covered: dict[ir.Value, set[tuple[ir.Node, int]]] = field(default_factory=dict)
    asked: dict[ir.Value, ir.Node | None] = field(default_factory=dict)
    joined: set[ir.Value] = field(default_factory=set)
    absorbing: list[tuple[Operator, ir.Node, Field, ir.Node | None]] = field(default_factory=list)
    queue: list[tuple[float, int, ir.Node]] = field(default_factory=list)


class _Stuck(Exception):
    """A way that does not lead anywhere, and the last node where another could be taken."""

    def __init__(self, refusal: Refusal, choice: ir.Node | None) -> None:
        super().__init__(str(refusal))
        self.refusal, self.choice = refusal, choice


def backward(network: Network, chains: Chains, chain: Chain) -> Plan:
    """The plan that lets what feeds `chain` absorb it.

    Raises:
        Refusal: there is none; the reason is that of the first way that was tried.
    """
    choices: dict[ir.Node, int] = {}
    first: Refusal | None = None
    for _ in range(_ATTEMPTS):
        walk = _Walk(network, chains, choices)
        try:
            return walk.walk(chain)
        except _Stuck as stuck:
            first = first or stuck.refusal
            if stuck.choice is None:
                raise first from None
            choices = walk.taken_until(stuck.choice)
            choices[stuck.choice] += 1
    assert first is not None  # noqa: S101 - every attempt that fails has a reason
    raise first


class _Walk:
    """One attempt.

    Args:
        network: the network.
        chains: its chains.
        choices: which answer is taken at the nodes where earlier attempts have taken another; else the first.
    """

    def __init__(self, network: Network, chains: Chains, choices: dict[ir.Node, int]) -> None:
        self.network, self.chains, self.choices = network, chains, choices
        self.taken: dict[ir.Node, int] = {}
        self.state = _Attempt()

    def taken_until(self, last: ir.Node) -> dict[ir.Node, int]:
        """The choices so far, up to that at `last`; what came later starts anew if that changes."""
        nodes = list(self.taken)
        return {node: self.taken[node] for node in nodes[: nodes.index(last) + 1]}

    def walk(self, chain: Chain) -> Plan:
        state = self.state
        state.plan.erased.append(chain)
        self._ask(chain.head, chain.source, chain.field, None)
        done: set[ir.Node] = set()
        while state.queue:
            _, _, node = heapq.heappop(state.queue)
            if node in done:
                continue
            done.add(node)
            choice = next(state.asked[value] for value in node.outputs if value in state.maps)
            try:
                self._visit(node, choice)
            except Refusal as refusal:
                raise _Stuck(refusal, choice) from refusal
        self._absorb()
        try:
            state.plan.check(self.network)
        except Refusal as refusal:
            raise _Stuck(refusal, None) from refusal
        return state.plan

    def _absorb(self) -> None:
        """Finds the new weights, which is much work, so not before all else is known to be right."""
        for operator, node, change, choice in self.state.absorbing:
            try:
                self.state.plan.edits.append(operator.after(self.network, node, change))
            except Refusal as refusal:
                raise _Stuck(refusal, choice) from refusal

    def _ask(self, use: tuple[ir.Node, int], value: ir.Value, change: Field, choice: ir.Node | None) -> None:
        """Asks whatever makes `value` to apply `change` to it, on behalf of one of its readers."""
        if change.is_identity:
            return
        state = self.state
        if self.network.constants.holds(value):
            if use[0] in self.network.fixed:
                raise _Stuck(Refusal(self.network.fixed[use[0]]), choice)
            array = self.network.constants.real(value)
            if array is None:
                raise _Stuck(Refusal(f"the numbers in {label(value)} are not known"), choice)
            state.plan.operands[use] = change(array)
            state.plan.absorbed_by(use[0], "constant-bn")
            return
        if value in state.maps and not state.maps[value].same(change):
            self._join(use[0], value, change, choice)
        node = value.producer()
        if node is None:
            raise _Stuck(Refusal(f"it is fed by {label(value)}, an input of the network"), choice)
        if value not in state.maps:
            state.maps[value], state.covered[value], state.asked[value] = change, set(), choice
            heapq.heappush(state.queue, (-self.network.position[node], len(state.asked), node))
        state.covered[value].add(use)

    def _join(self, reader: ir.Node, value: ir.Value, change: Field, choice: ir.Node | None) -> None:
        """Lets `value` get another map as well: each may be for a part of it that only one reader sees.

        Whether it is so is found when all readers have asked, see `_check_joined`.
        """
        state = self.state
        refusal = Refusal(f"the readers of {label(value)} need different maps")
        if any(node is reader for node, _ in state.covered[value]):
            raise _Stuck(refusal, choice)
        try:
            state.maps[value] = state.maps[value].then(change)
        except (Refusal, ValueError) as error:  # too large together, or of different sizes
            raise _Stuck(refusal, choice) from error
        state.joined.add(value)
        state.asked[value] = choice or state.asked[value]

    def _check_joined(self, value: ir.Value) -> None:
        """Rules out that what `value` gets for one reader is seen by another that has asked."""
        state = self.state
        for node, _ in state.covered[value]:
            known = self.chains.of(node) is None and operator_of(self.network, node) is None
            if not known or any(reader is node for reader, _ in state.plan.operands):
                raise Refusal(f"the readers of {label(value)} need different maps")
            given = {index: state.maps[v] for index, v in enumerate(node.inputs) if v in state.maps}
            seen = passing(self.network, node).push(self.network, node, given)
            for place, result in enumerate(node.outputs):
                same = Field.identity(state.maps[value].rank)
                if not seen.get(place, same).same(state.maps.get(result, same)):
                    raise Refusal(f"the readers of {label(value)} need different maps")

    def _visit(self, node: ir.Node, choice: ir.Node | None) -> None:
        """Lets `node` apply what its readers ask for, or asks its own inputs."""
        state = self.state
        for value in node.outputs:
            if value in state.maps:
                self._check_readers(value)
        fields = {index: state.maps[v] for index, v in enumerate(node.outputs) if v in state.maps}
        if (before := self.chains.of(node)) is not None:
            self._compose(before, fields[0], choice)
            return
        operator = operator_of(self.network, node)
        if operator is not None:
            self.network.go()
            state.absorbing.append((operator, node, fields[0], choice))
            state.plan.absorbed_by(node, f"{operator.rule}-bn")
            return
        way = passing(self.network, node)
        answers = way.pull(self.network, node, fields)
        answer, choice = self._choose(node, len(answers), choice)
        state.plan.passes(self.network, node)
        for index, change in answers[answer].items():
            if (operand := node.inputs[index]) is not None:
                self._ask((node, index), operand, change, choice)

    def _compose(self, before: Chain, change: Field, choice: ir.Node | None) -> None:
        """A chain on the way goes as well, but a batch norm takes the map: there was no way past it.

        Its own turn came first; where both together may go is seen in the next round.
        """
        composed = before.field.then(change)
        if before.batchnorms:
            self.state.plan.rewritten[before] = composed
            self.state.plan.absorbed_by(before.links[-1].node, "bn-bn")
        else:
            self.state.plan.erased.append(before)
            self._ask(before.head, before.source, composed, choice)

    def _choose(self, node: ir.Node, count: int, choice: ir.Node | None) -> tuple[int, ir.Node | None]:
        """Which of `count` answers is tried now, and the choice that what follows depends on."""
        answer = self.taken[node] = self.choices.get(node, 0)
        return answer, node if answer + 1 < count else choice

    def _check_readers(self, value: ir.Value) -> None:
        """Rules out that anyone reads `value` who would notice its change."""
        seen = self.network.seen_outside(value)
        if seen is not None:
            raise Refusal(f"{label(value)} {seen}")
        if value in self.state.joined:
            self._check_joined(value)
        change = self.state.maps[value]
        uses = value.uses()
        for node, index in ((use.node, use.idx) for use in uses):
            if (node, index) in self.state.covered[value] or not self.network.heeds(node, index):
                continue
            twin = self.chains.starting_at(node, index)
            plan = self.state.plan
            busy = twin in plan.erased or twin in plan.rewritten
            if twin is not None and not busy and twin.field.same(change):
                plan.erased.append(twin)
                continue
            if not _unaffected(self.network, self.chains, node, index, change):
                raise Refusal(f"{label(value)} is used {len(uses)} times")


def _unaffected(network: Network, chains: Chains, node: ir.Node, index: int, change: Field) -> bool:
    """Whether `node` sees only that part of a changed value that did not change, as a Slice may."""
    if chains.of(node) is not None:
        return False
    try:
        if operator_of(network, node) is not None:
            return False
        way: Passing = passing(network, node)
        return all(out.is_identity for out in way.push(network, node, {index: change}).values())
    except Refusal:
        return False
