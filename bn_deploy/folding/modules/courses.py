"""Which runs of a network have to be seen, so that what holds in all of them holds at all.

A forward is Python: it may look at its inputs. It is run at several sizes, once for every answer that it
takes from a tensor, and once more for every other plain argument that it could be called with.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.batchnorm.foreign import twin
from bn_deploy.folding.modules.alike import alike, alike_until, name_sizes
from bn_deploy.folding.modules.alternatives import (
    other_arguments,
    other_numbers,
    other_types,
    without_batch,
)
from bn_deploy.folding.modules.course import TRUTH, Answers, Constant, Course, Inputs, Place
from bn_deploy.folding.modules.memory import Memory
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.modules.outside import Outside
from bn_deploy.folding.modules.resizing import Candidates, all_sizes, of_batch, other_sizes
from bn_deploy.folding.modules.sizes import is_setting
from bn_deploy.folding.modules.state import State, changed, contents, equal
from bn_deploy.folding.outcome import Refusal

MOST = 64
"""How many answers are tried. A forward that asks more questions than that is refused."""


def arguments(example_inputs: Any) -> Inputs:
    """Positional and named arguments from what a user gives: a tensor, a sequence or a mapping."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, Tensor) or not isinstance(example_inputs, Sequence):
        return (example_inputs,), {}
    return tuple(example_inputs), {}


def explore(network: nn.Module, examples: Sequence[Inputs], whole: Callable[[str], bool]) -> list[Course]:
    """Every course that the forward of `network` takes, as far as runs can show it.

    Args:
        network: in eval mode; its state may change.
        examples: what it takes; several if it takes inputs of several ranks.
        whole: as in `observe`.

    Raises:
        Unrun: it does not take the inputs.
        Refusal: it asks more questions than are tried, or does not come to an end in the same state.
    """
    found = []
    for inputs in examples:
        found += _explored(network, inputs, whole)
    return found


def _explored(network: nn.Module, inputs: Inputs, whole: Callable[[str], bool]) -> list[Course]:
    two = of_batch(inputs, 2)
    main = _settled(network, [two, inputs], whole)
    used = two if two is not None and main.inputs and _batch_of(main) == 2 else inputs
    courses = [main, *_other_answers(network, used, main, whole)]
    courses += _taken(network, other_arguments(network, used), whole)
    courses += _taken(network, [*other_numbers(main), *other_types(main), without_batch(main, used)], whole)
    if len(courses) > 1 and not alike(main, _first(network, [main.given], whole)):
        raise Refusal("its forward takes another course another time")
    groups = _grouped(courses)
    unlike = [
        other for group in groups for other in _other_sizes(network, group, whole, first=group.main is main)
    ]
    return [*(group.main for group in groups), *unlike]


@dataclass
class _Group:
    """Courses of which one stands for all.

    Attributes:
        main: this one.
        alike: the others.
        until: those that are alike until after so many operators.
    """

    main: Course
    alike: list[Course] = field(default_factory=list)
    until: list[tuple[Course, int]] = field(default_factory=list)


def _grouped(courses: Iterable[Course]) -> list[_Group]:
    """Each course with those that are alike."""
    groups: list[_Group] = []
    for course in courses:
        for group in groups:
            if alike(group.main, course):
                group.alike.append(course)
                break
        else:
            ends = ((group, alike_until(group.main, course)) for group in groups)
            group, end = next((found for found in ends if found[1] is not None), (_Group(course), None))
            if end is None:
                groups.append(group)
            else:
                group.until.append((course, end))
        group.main.aside |= course.aside
    return groups


def _settled(network: nn.Module, candidates: Sequence[Inputs | None], whole: Callable[[str], bool]) -> Course:
    """The course that the forward takes again and again, once it has made what it keeps."""
    outside = Outside(network)

    def now() -> State:
        generators = {"the state of a random generator of Python or numpy": _generators()}
        return {**contents(network), **outside.contents(), **generators}

    state = now()
    course = _first(network, candidates, whole)
    if not changed(state, now()):
        return course
    # What a first pass leaves behind, such as a table made when it is needed, is there in a second.
    before, state = course, now()
    course = _first(network, candidates, whole)
    read = {id(tensor.tensor) for op in course.ops for tensor in op.inputs if isinstance(tensor, Constant)}
    names = [
        # A result that is put aside is like one that is returned, unless the next pass looks at it.
        name
        for name in changed(state, now())
        if not isinstance(state.get(name), Tensor) or id(state[name]) in read
    ]
    if names and not _made_anew(network, state, names, course, whole):
        raise Refusal(f"the forward changes {names[0].lstrip('.')}, so that no two passes need be alike")
    if not alike(before, course):
        raise Refusal("its forward takes another course the second time")
    return course


def _generators() -> str:
    """The state of the random generators that are global."""
    return str((random.getstate(), np.random.get_state(legacy=False)))  # noqa: NPY002 - the forward's own


def _made_anew(
    network: nn.Module,
    before: State,
    names: list[str],
    course: Course,
    whole: Callable[[str], bool],
) -> bool:
    """Whether the forward makes the same tensors in each pass, whatever its inputs are."""
    if not equal(before, contents(network), names):
        return False
    other = pytree.tree_map_only(Tensor, lambda t: t + 1 if t.is_floating_point() else t, course.given)
    try:
        observe(network, other, whole=whole)
    except Unrun:
        return False
    return equal(before, contents(network), names)


def _first(
    network: nn.Module,
    candidates: Sequence[Inputs | None],
    whole: Callable[[str], bool],
    answers: Answers = TRUTH,
) -> Course:
    """The course of the first inputs that the network takes."""
    error: Unrun | None = None
    for inputs in candidates:
        if inputs is not None:
            try:
                return observe(network, inputs, answers, whole)
            except Unrun as unrun:
                error = unrun
    raise error or Unrun("no inputs")


def _taken(
    network: nn.Module, groups: Iterable[Candidates], whole: Callable[[str], bool], answers: Answers = TRUTH
) -> Iterator[Course]:
    """A course for each of the groups of which the network takes one."""
    for candidates in groups:
        try:
            yield _first(network, candidates, whole, answers)
        except Unrun:
            continue


def _batch_of(course: Course) -> int | str | None:
    return next((value.shape[0] for value in course.inputs if value.shape), None)


def _other_sizes(
    network: nn.Module, group: _Group, whole: Callable[[str], bool], *, first: bool
) -> list[Course]:
    """Names the sizes that are no fixed ones; returns a course of its own where more depends on them.

    Args:
        network: takes other sizes.
        group: a course, and those that are like it.
        whole: as in `observe`.
        first: whether every size is tried by itself.
    """
    main, same, unlike = group.main, list(group.alike), list[Course]()
    answers = Answers(tuple(main.read), main.answers.told)
    more = main.sized and not main.broken
    tries = other_sizes(main) if first else all_sizes(main) if more else iter(())
    for other in _taken(network, tries, whole, answers):  # else, the size is a fixed one
        (same if alike(main, other) else unlike).append(other)
        if other.lost != main.lost:
            how = next(how for how, _ in (*other.lost, *main.lost))
            raise Refusal(f"its forward takes a size and {how}, where no run shows what depends on it")
    if same:
        name_sizes(main, same)
    for other, end in group.until:
        name_sizes(main, [other], end)
    for other in same:
        if _batch_of(other) == 1:
            main.given, main.results = other.given, other.results  # cheaper to run again
    return unlike


def _other_answers(
    network: nn.Module, inputs: Inputs, main: Course, whole: Callable[[str], bool]
) -> list[Course]:
    """A course for every other answer to every question that the forward asks."""
    found: list[Course] = []
    pending = deque([*_alternatives(main, set()), *_all_settings(main)])
    tried, memory = 0, Memory()
    while pending:
        tried += 1
        if tried > MOST:
            raise Refusal(f"its forward asks its inputs so many questions that {MOST} runs do not answer all")
        answers, places = pending.popleft()
        # What it is told of torch's settings may make it change what it keeps.
        own = twin(network) if any(map(is_setting, answers.told)) else network
        try:
            course = observe(own, inputs, answers, whole, memory)
        except Unrun as unrun:
            if unrun.course is None:
                continue  # the forward does not go on with that answer
            course = unrun.course
        found.append(course)
        pending.extend(_alternatives(course, places))
    return found


def _all_settings(course: Course) -> Iterator[tuple[Answers, set[Place]]]:
    """Other answers to all questions about torch's settings at once."""
    told = {place: next(iter(others)) for place, others in course.questions.items() if is_setting(place)}
    if len(told) > 1:
        yield Answers(told=told), set(course.questions)


def _alternatives(course: Course, places: set[Place]) -> Iterator[tuple[Answers, set[Place]]]:
    """Other answers to the questions that are new in `course`, each with the places that are not new then."""
    known = places | set(course.questions)
    for place, others in course.questions.items():
        if place not in places:
            for other in sorted(others):
                yield Answers(told={**course.answers.told, place: other}), known
