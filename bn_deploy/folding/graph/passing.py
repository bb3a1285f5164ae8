"""Operators that a map passes through: what it becomes on their inputs, or on their output.

`pull` answers: to have F applied to the outputs, which maps have to be applied to the inputs instead?
There may be several answers, the best first. `push` answers: if the inputs come without their map F, which
map do the outputs lack? Both raise a Refusal where there is no exact answer. The operators that
compute are in `computing`, `pooling` and `sampling`, those that only move elements in `moving` and `parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.outcome import Refusal

Fields = Mapping[int, Field]
Pull = Callable[[Network, ir.Node, Fields], "list[dict[int, Field]]"]
Push = Callable[[Network, ir.Node, Fields], "dict[int, Field]"]


@dataclass(frozen=True)
class Passing:
    """An operator that maps pass through.

    Attributes:
        attributes: those that are understood.
        pull, push: as above, by index of the output and of the input.
    """

    attributes: frozenset[str]
    pull: Pull
    push: Push


def same_both_ways(check: Callable[[Network, ir.Node, Field], None], *attributes: str) -> Passing:
    """An operator of one input that lets a map through as it is, if `check` does not refuse."""

    def carry(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        if set(fields) != {0}:
            raise Refusal(f"{label(node)} is used in an unusual way")
        check(network, node, fields[0])
        return dict(fields)

    return Passing(frozenset(attributes), lambda *given: [carry(*given)], carry)


def conjugating(fixed: Field, index: int) -> Passing:
    """An affine operator that stays as it is, a map of its input `index`: others change places with it."""

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:  # noqa: ARG001
        return [{index: fields[0].ahead_of(fixed)}]

    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:  # noqa: ARG001
        if set(fields) != {index}:
            raise Refusal(f"{label(node)} is used in an unusual way")
        return {0: fields[index].behind(fixed)}

    return Passing(frozenset(), pull, push)


def uniform(field: Field, axes: frozenset[int] | set[int], node: ir.Node) -> None:
    """Refuses a map that differs along `axes`."""
    if field.varying & axes:
        raise Refusal(f"{label(node)} mixes elements that get different scales")


def unsigned(field: Field, node: ir.Node) -> None:
    """Refuses a map that turns the order of numbers round."""
    if (field.scale < 0).any():
        raise Refusal(f"a negative scale does not pass {label(node)}, a {node.op_type}")


def only_scale(field: Field, node: ir.Node) -> None:
    """Refuses a map that shifts."""
    if field.shifts:
        raise Refusal(f"a shift does not pass {label(node)}, a {node.op_type}")


def moves(
    back: Callable[[Network, ir.Node, Field], Field],
    forth: Callable[[Network, ir.Node, Field], Field],
    *attributes: str,
) -> Passing:
    """An operator of which only input 0 holds what output 0 holds."""
    return Passing(
        frozenset(attributes),
        lambda network, node, fields: [{0: back(network, node, fields[0])}],
        onwards(forth),
    )


def onwards(forth: Callable[[Network, ir.Node, Field], Field]) -> Push:
    """`push` of an operator of which only input 0 holds what output 0 holds."""

    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        if set(fields) != {0}:
            raise Refusal(f"{label(node)} is used in an unusual way")
        return {0: forth(network, node, fields[0])}

    return push
