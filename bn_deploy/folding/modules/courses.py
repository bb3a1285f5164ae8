"""Which runs of a network have to be seen, so that what holds in all of them holds at all.

A forward is Python: it may look at its inputs. It is run at two sizes of the batch, once for every answer
that it takes from a tensor, and once more for every other plain argument that it could be called with.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.folding.modules.alike import alike, name_sizes
from bn_deploy.folding.modules.course import Answers, Constant, Course, Inputs, Place
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.outcome import Refusal

MOST = 64
"""How many runs are tried. A forward that asks more questions than that is refused."""


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
    two = _of_batch(inputs, 2)
    main = _settled(network, [two, inputs], whole)
    used = two if two is not None and main.inputs and _batch_of(main) == 2 else inputs
    courses = [main, *_other_answers(network, used, main, whole), *_other_arguments(network, used, whole)]
    sized = [course for course in courses if course is main or course.sized]
    return courses + [other for course in sized for other in _other_sizes(network, course, whole)]


def _settled(network: nn.Module, candidates: Sequence[Inputs | None], whole: Callable[[str], bool]) -> Course:
    """The course that the forward takes again and again, once it has made what it keeps."""
    state = contents(network)
    course = _first(network, candidates, whole)
    if not _changed(state, contents(network)):
        return course
    # What a first pass leaves behind, such as a table made when it is needed, is there in a second.
    before, state = course, contents(network)
    course = _first(network, candidates, whole)
    read = {id(tensor.tensor) for op in course.ops for tensor in op.inputs if isinstance(tensor, Constant)}
    for name in _changed(state, contents(network)):
        # A result that is put aside is like one that is returned, unless the next pass looks at it.
        if not isinstance(state.get(name), Tensor) or id(state[name]) in read:
            raise Refusal(f"the forward changes {name.lstrip('.')}, so that no two passes need be alike")
    if not alike(before, course):
        raise Refusal("its forward takes another course the second time")
    return course


def _first(network: nn.Module, candidates: Sequence[Inputs | None], whole: Callable[[str], bool]) -> Course:
    """The course of the first inputs that the network takes."""
    error: Unrun | None = None
    for inputs in candidates:
        if inputs is not None:
            try:
                return observe(network, inputs, whole=whole)
            except Unrun as unrun:
                error = unrun
    raise error or Unrun("no inputs")


def _batch_of(course: Course) -> int | str | None:
    return next((value.shape[0] for value in course.inputs if value.shape), None)


def _of_batch(inputs: Inputs, size: int) -> Inputs | None:
    """The inputs with another size of the batch, if there is one: an axis 0 that the first tensor shows."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not leaves or not len(leaves[0]):
        return None
    given = len(leaves[0])
    rows = torch.arange(size) % given

    def resized(tensor: Tensor) -> Tensor:
        same = tensor.dim() and len(tensor) == given
        return tensor.detach().index_select(0, rows.to(tensor.device)) if same else tensor.detach()

    found: Inputs = pytree.tree_map_only(Tensor, resized, inputs)
    return found


def _other_sizes(network: nn.Module, main: Course, whole: Callable[[str], bool]) -> list[Course]:
    """Names the sizes that are no fixed ones; returns a course of its own where more depends on them."""
    answers = Answers(tuple(decision.answer for decision in main.decisions), main.answers.opposite)
    same: list[Course] = []
    unlike: list[Course] = []
    for candidates in _resized(main):
        for inputs in candidates:
            try:
                other = observe(network, inputs, answers, whole)
            except Unrun:
                continue  # this size is a fixed one
            (same if alike(main, other) else unlike).append(other)
            break
    if same:
        name_sizes(main, same)
    for other in same:
        if _batch_of(other) == 1:
            main.given, main.results = other.given, other.results  # cheaper to run again
    return unlike


def _resized(main: Course) -> Iterator[list[Inputs]]:
    """The inputs of a course with another size along one axis: several candidates for each axis."""
    one = _of_batch(main.given, 1)
    if one is not None:
        yield [one]
    if main.sized:
        leaves = [leaf for leaf in pytree.tree_leaves(main.given) if isinstance(leaf, Tensor)]
        for axis in range(1, leaves[0].dim()):
            # An odd size shows more, an even one is taken by networks that halve and double.
            yield [_grown(main.given, axis, leaves[0].shape[axis], more) for more in (1, 0)]


def _grown(inputs: Inputs, axis: int, size: int, more: int) -> Inputs:
    """The inputs with every axis of that number and size more than doubled."""
    places = torch.arange(2 * size + more) % size

    def grown(tensor: Tensor) -> Tensor:
        same = tensor.dim() > axis and tensor.shape[axis] == size
        return tensor.detach().index_select(axis, places.to(tensor.device)) if same else tensor

    found: Inputs = pytree.tree_map_only(Tensor, grown, inputs)
    return found


def _other_answers(
    network: nn.Module, inputs: Inputs, main: Course, whole: Callable[[str], bool]
) -> list[Course]:
    """A course for every other answer to every question that the forward asks."""
    found: list[Course] = []
    pending = deque(_alternatives(main, 0, set()))
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
        pending.extend(_alternatives(course, len(answers.read), places))
    return found


def _alternatives(course: Course, read: int, places: set[Place]) -> Iterator[tuple[Answers, set[Place]]]:
    """Other answers to the questions that are new in `course`, each with the places that are not new then."""
    given = [decision.answer for decision in course.decisions]
    known = places | set(course.places)
    for position in range(read, len(given)):
        for other in course.decisions[position].others:
            yield Answers((*given[:position], other), course.answers.opposite), known
    for place in course.places:
        if place not in places:
            yield Answers(course.answers.read, course.answers.opposite | {place}), known


def _other_arguments(network: nn.Module, inputs: Inputs, whole: Callable[[str], bool]) -> list[Course]:
    """A course for every other value of a plain argument, and without each that may be left out."""
    args, kwargs = inputs
    tries: list[Inputs] = []
    for position, value in enumerate(args):
        others = _others(network, value)
        tries += [((*args[:position], other, *args[position + 1 :]), kwargs) for other in others]
    for name, value in kwargs.items():
        tries += [(args, {**kwargs, name: other}) for other in _others(network, value)]
    try:
        parameters = list(inspect.signature(network.forward).parameters.items())
    except (TypeError, ValueError):
        parameters = []
    for position, (name, parameter) in enumerate(parameters):
        default = parameter.default
        if default is parameter.empty:
            continue
        if position < len(args):
            tries.append(((*args[:position], default, *args[position + 1 :]), kwargs))
        elif name in kwargs:
            tries.append((args, {**kwargs, name: default}))
        else:
            tries += [(args, {**kwargs, name: other}) for other in _others(network, default)]
    found = []
    for other in tries:
        try:
            found.append(observe(network, other, whole=whole))
        except Unrun:
            continue  # it does not take that
    return found


def _others(network: nn.Module, value: Any) -> list[Any]:
    """What could stand in the place of a plain argument."""
    if value is None:
        return [True]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [n for n in (0, 1, 2, 3, value + 1) if n != value]
    if isinstance(value, str):
        names = {key for m in network.modules() if isinstance(m, nn.ModuleDict) for key in m}
        return sorted(names - {value})
    return []


def contents(network: nn.Module) -> dict[str, object]:
    """What the modules hold, by path: their attributes, and the items of those that are containers."""
    found: dict[str, object] = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name in _HOOKS:
                continue
            found[f"{path}.{name}"] = value
            if isinstance(value, dict):
                found |= {f"{path}.{name}.{key}": item for key, item in value.items()}
            elif isinstance(value, (list, tuple, set, deque)):
                found |= {f"{path}.{name}.{index}": item for index, item in enumerate(value)}
    return found


_HOOKS = frozenset(
    {
        "_forward_hooks",
        "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
    }
)


def _changed(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """The names of what is not as before."""

    def same(name: str) -> bool:
        if name not in before or name not in after:
            return False
        old, new = before[name], after[name]
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            return old is new or _memory(old) == _memory(new)
        return old is new or (type(old) is type(new) and isinstance(old, _PLAIN) and old == new)

    return [name for name in sorted(before.keys() | after.keys()) if not same(name)]


def _memory(tensor: Tensor) -> object:
    """Where a tensor lies: two that lie in the same place are one under two names."""
    strided = tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel() > 0
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if strided else id(tensor)


_PLAIN = (bool, int, float, str)
