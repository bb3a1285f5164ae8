"""What one run of a network's forward did: its operators in order, and which tensor fed which.

A run is observed on real tensors, so any Python code may stand in the forward; what it does not show is what
another run would do. `courses` decides which runs are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Place = tuple[tuple[str, int, int], ...]
"""Where in the forward of a module something is asked: for each function on the way there, its file, its line
and the instruction."""

Slot = tuple[str, str]
"""A parameter or buffer of a network: the path of the module that holds it, and its name there."""


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and named arguments of a forward."""


@dataclass(eq=False)
class Value:
    """A tensor that depends on the network's inputs, at one moment: writing to it makes it another value.

    Attributes:
        shape: its sizes; a name stands for the same number everywhere in a course.
        dtype: its type.
    """

    shape: tuple[int | str, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor that does not depend on the inputs.

    Attributes:
        tensor: its numbers.
        slots: where the network holds this very tensor as a parameter or buffer: (path of a module, name).
    """

    tensor: Tensor
    slots: tuple[Slot, ...] = ()


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        module: whose forward ran.
        path: its path in the network.
        caller: the call from within which it was called; None for the network itself.
        inputs, outputs: the values among its arguments and its results.
    """

    module: nn.Module
    path: str
    caller: Call | None
    inputs: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def within(self, other: Call) -> bool:
        """Whether it is `other`, or ran inside it."""
        call: Call | None = self
        while call is not None and call is not other:
            call = call.caller
        return call is other


@dataclass(eq=False)
class Op:
    """One operator that ran on at least one value.

    Attributes:
        name: its name and overload in torch's operator library, such as "aten.add.Tensor".
        arguments: its arguments by name, with a Value or Constant in the place of each tensor.
        outputs: its results; None for what is not a tensor.
        call: the innermost module call that it ran in.
        exact: whether its results are those of the operator; otherwise only that they depend on its arguments
            is known.
    """

    name: str
    arguments: dict[str, Any]
    outputs: list[Value | None]
    call: Call
    exact: bool = True

    @property
    def inputs(self) -> list[Value | Constant]:
        """Every tensor among the arguments."""
        return list(tensors_in(self.arguments))


@dataclass(frozen=True, eq=False)
class Answers:
    """What a forward is told when it asks about its tensors.

    Attributes:
        read: the numbers and truths that it reads from tensors, in order.
        told: what it is told at some places in its code whenever it asks, after these; at all others it
            learns the truth.
    """

    read: tuple[bool | float, ...] = ()
    told: Mapping[Place, bool | float] = field(default_factory=dict)


TRUTH = Answers()

HANDED_OUT = "(handed to Python)"
"""What stands for an operator where the numbers of a tensor leave torch."""


@dataclass(eq=False)
class Course:
    """One run.

    Attributes:
        given: the positional and named arguments of the forward.
        answers: what it was told when it asked, as far as that was set beforehand.
        questions: where it asked about sizes or numbers of tensors, with the other answers that are tried.
        inputs: the values that came in.
        ops: what ran, in order.
        calls: the modules' calls, in order.
        seen: the values that were still there when the forward had returned: its results, and whatever it
            left elsewhere.
        results: the tensors it returned, for comparison.
        aside: the parameters that the forward used to compute other constants.
        read: the answers that the forward took from tensors on its way, such as the condition of an if.
        sized: whether it computed with the sizes of tensors.
        ranked: whether it asked how many axes they have.
        typed: whether it asked of what type their numbers are.
        lost: the sizes of which no one sees what depends on them, each with how it was lost.
        numbers: the whole numbers in the code that computes with sizes.
        broken: whether it ended with an error, since an answer was not true: what it would have done with the
            values that it had then is not known.
    """

    given: Inputs = ((), {})
    answers: Answers = TRUTH
    questions: dict[Place, set[bool | float]] = field(default_factory=dict)
    inputs: list[Value] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    seen: set[Value] = field(default_factory=set)
    results: list[Tensor] = field(default_factory=list)
    aside: set[Slot] = field(default_factory=set)
    read: list[bool | float] = field(default_factory=list)
    sized: bool = False
    ranked: bool = False
    typed: bool = False
    lost: list[tuple[str, float]] = field(default_factory=list)
    numbers: set[int] = field(default_factory=set)
    broken: bool = False


def tensors_in(structure: Any) -> Iterator[Value | Constant]:
    """Every Value and Constant in nested tuples, lists and dicts, in order."""
    if isinstance(structure, (Value, Constant)):
        yield structure
    elif isinstance(structure, (tuple, list)):
        for item in structure:
            yield from tensors_in(item)
    elif isinstance(structure, dict):
        for item in structure.values():
            yield from tensors_in(item)
