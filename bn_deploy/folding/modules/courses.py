"""Which runs of a network have to be seen, so that what holds in all of them holds at all.

A forward is Python: it may look at its inputs. It is run at several sizes, once for every answer that it
takes from a tensor, and once more for every other plain argument that it could be called with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.folding.modules.alike import alike, name_sizes
from bn_deploy.folding.modules.alternatives import (
    Candidates,
    of_batch,
    other_arguments,
    other_numbers,
    other_sizes,
    without_batch,
)
from bn_deploy.folding.modules.course import TRUTH, Answers, Constant, Course, Inputs, Place
from bn_deploy.folding.modules.observe import Unrun, observe
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
    courses += _taken(network, [*other_numbers(main), without_batch(main, used)], whole)
    groups = _grouped(courses)
    unlike = [
        other
        for course, same in groups
        for other in _other_sizes(network, course, same, whole, try_sizes=course is main or course.sized)
    ]
    return [*(course for course, _ in groups), *unlike]


def _grouped(courses: Iterable[Course]) -> list[tuple[Course, list[Course]]]:
    """Each course with those that are alike: one of them stands for all."""
    groups: list[tuple[Course, list[Course]]] = []
    for course in courses:
        like = next((group for group in groups if alike(group[0], course)), None)
        if like is None:
            groups.append((course, []))
        else:
            like[0].aside |= course.aside
            like[1].append(course)
    return groups


def _settled(network: nn.Module, candidates: Sequence[Inputs | None], whole: Callable[[str], bool]) -> Course:
    """The course that the forward takes again and again, once it has made what it keeps."""
    state = contents(network)
    course = _first(network, candidates, whole)
    if not changed(state, contents(network)):
        return course
    # What a first pass leaves behind, such as a table made when it is needed, is there in a second.
    before, state = course, contents(network)
    course = _first(network, candidates, whole)
    read = {id(tensor.tensor) for op in course.ops for tensor in op.inputs if isinstance(tensor, Constant)}
    names = [
        # A result that is put aside is like one that is returned, unless the next pass looks at it.
        name
        for name in changed(state, contents(network))
        if not isinstance(state.get(name), Tensor) or id(state[name]) in read
    ]
    if names and not _made_anew(network, state, names, course, whole):
        raise Refusal(f"the forward changes {names[0].lstrip('.')}, so that no two passes need be alike")
    if not alike(before, course):
        raise Refusal("its forward takes another course the second time")
    return course


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
    network: nn.Module, main: Course, known: list[Course], whole: Callable[[str], bool], *, try_sizes: bool
) -> list[Course]:
    """Names the sizes that are no fixed ones; returns a course of its own where more depends on them."""
    answers = Answers(tuple(main.read), main.answers.told)
    same, unlike = list(known), list[Course]()
    tries = other_sizes(main) if try_sizes else ()
    for other in _taken(network, tries, whole, answers):  # else, the size is a fixed one
        (same if alike(main, other) else unlike).append(other)
    if same:
        name_sizes(main, same)
    for other in same:
        if _batch_of(other) == 1:
            main.given, main.results = other.given, other.results  # cheaper to run again
    return unlike


def _other_answers(
    network: nn.Module, inputs: Inputs, main: Course, whole: Callable[[str], bool]
) -> list[Course]:
    """A course for every other answer to every question that the forward asks."""
    found: list[Course] = []
    pending = deque(_alternatives(main, set()))
    tried = 0
    while pending:
        tried += 1
        if tried > MOST:
            raise Refusal(f"its forward asks its inputs so many questions that {MOST} runs do not answer all")
        answers, places = pending.popleft()
        try:
            course = observe(network, inputs, answers, whole)
        except Unrun:
            continue  # the forward does not go on with that answer
        found.append(course)
        pending.extend(_alternatives(course, places))
    return found


def _alternatives(course: Course, places: set[Place]) -> Iterator[tuple[Answers, set[Place]]]:
    """Other answers to the questions that are new in `course`, each with the places that are not new then."""
    known = places | set(course.questions)
    for place, others in course.questions.items():
        if place not in places:
            for other in sorted(others):
                yield Answers(told={**course.answers.told, place: other}), known
