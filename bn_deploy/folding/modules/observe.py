"""Observes one run of a network's forward: torch shows each operator on its way to the kernel.

The run is in inference mode. There, an operator arrives as it was called (`linear`, not the three operators
that it consists of), and no view keeps the tensor alive that it was taken from.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.batchnorm.foreign import first_line
from bn_deploy.folding.modules.course import TRUTH, Answers, Call, Course, Inputs, Value
from bn_deploy.folding.modules.memory import Memory
from bn_deploy.folding.modules.outside import spaces_of
from bn_deploy.folding.modules.places import is_raised_on_purpose
from bn_deploy.folding.modules.recorder import Recorder
from bn_deploy.folding.modules.settings import answered
from bn_deploy.folding.modules.watch import Raised
from bn_deploy.folding.outcome import Refusal


class Unrun(Exception):
    """The forward raised; its text says what.

    Attributes:
        course: what it did until then, if the error may be due to an answer that was not true.
    """

    def __init__(self, reason: str, course: Course | None = None) -> None:
        super().__init__(reason)
        self.course = course


def observe(
    network: nn.Module,
    inputs: Inputs,
    answers: Answers = TRUTH,
    whole: Callable[[str], bool] = bool,
    memory: Memory | None = None,
) -> Course:
    """Runs `network` once and notes what it does.

    Args:
        network: in eval mode. Its modules get hooks for the time of the run.
        inputs: real tensors of any sizes that it takes.
        answers: what to tell the forward when it asks.
        whole: which operators are noted as they are; others are taken apart where torch can.
        memory: what earlier runs on the same inputs have computed.

    Raises:
        Unrun: the forward raised an error.
        Refusal: it does something after which no other run is like this one.
    """
    recorder = Recorder(network, answers, whole, memory)
    recorder.course.given, recorder.course.answers = inputs, answers
    args, kwargs = pytree.tree_map_only(Tensor, torch.clone, inputs)  # the forward may write to them
    for tensor in _held(inputs, (args, kwargs)):
        recorder.course.inputs.append(recorder.new(tensor))
    try:
        with (
            torch.inference_mode(),
            torch.random.fork_rng([]),
            _hooks(network, recorder),
            _eager(),
            answered(recorder.asker, spaces_of(network)),
            recorder.watch,
            recorder,
        ):
            torch.default_generator.manual_seed(0)  # two runs of one course see the same random numbers
            result = network(*args, **kwargs)
    except Refusal:
        raise
    except Exception as error:  # the forward is foreign code: whatever it raises is the reason
        if recorder.refusal is not None:
            raise recorder.refusal from error
        if recorder.asker.unknown is not None:
            _ended(recorder)
        raise Unrun(first_line(error), _until(error, recorder)) from error
    course = recorder.course
    del args, kwargs
    course.results = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]
    for held in _held(result, result):
        recorder.used_aside(held)  # a parameter that is returned has to stay as it is
    return _ended(recorder)


def _eager() -> AbstractContextManager[object]:
    """Keeps torch's compiler, if it is there, from replacing what is to be observed."""
    loaded = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if loaded else nullcontext()


def _until(error: Exception, recorder: Recorder) -> Course | None:
    """The course up to an error, unless that is what the forward does with such inputs."""
    if not recorder.asker.lied or isinstance(error, Raised) or is_raised_on_purpose(error):
        return None
    recorder.course.broken = True
    return _ended(recorder)


def _ended(recorder: Recorder) -> Course:
    """The course, with what was noted besides the operators.

    Raises:
        Refusal: something was done after which no other run is like this one.
    """
    course, asker, watch = recorder.course, recorder.asker, recorder.watch
    if recorder.refusal is None and asker.unknown is not None:
        recorder.refusal = Refusal(f"the forward {asker.unknown}, so that no two passes need be alike")
    if recorder.refusal is None and watch.failed is not None and not course.broken:
        recorder.refusal = Refusal(f"the forward catches an error ({watch.failed}) that need not come up")
    if recorder.refusal is not None:
        raise recorder.refusal
    course.questions, course.lost, course.numbers = asker.questions, asker.lost, asker.numbers
    course.sized = watch.used or bool(asker.lost) or any(op.name.startswith("aten.sum.") for op in course.ops)
    course.ranked, course.typed = watch.ranked, watch.typed
    course.seen = recorder.alive({id(tensor) for tensor in course.results})
    return course


def _held(inputs: Any, given: Any) -> list[Tensor]:
    """Every tensor that a forward gets: those of `given`, and those inside other objects among `inputs`."""
    found = [leaf for leaf in pytree.tree_leaves(given) if isinstance(leaf, Tensor)]
    others = [leaf for leaf in pytree.tree_leaves(inputs) if not isinstance(leaf, (Tensor, *_PLAIN))]
    for _ in range(_DEEP):
        inner = [
            leaf
            for other in others
            if isinstance(other, Mapping) or hasattr(other, "__dict__")
            for leaf in pytree.tree_leaves(dict(other) if isinstance(other, Mapping) else vars(other))
        ]
        found += [leaf for leaf in inner if isinstance(leaf, Tensor)]
        others = [leaf for leaf in inner if not isinstance(leaf, (Tensor, *_PLAIN))]
    return found


_PLAIN = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device)
_DEEP = 3
"""How far objects inside objects are looked into."""


@contextmanager
def _hooks(network: nn.Module, recorder: Recorder) -> Iterator[None]:
    """Lets every module tell the recorder when it starts and when it ends."""
    handles = []

    def values(structure: Any) -> list[Value]:
        leaves = (leaf for leaf in pytree.tree_leaves(structure) if isinstance(leaf, Tensor))
        return [value for leaf in leaves if (value := recorder.value(leaf)) is not None]

    def enter(path: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(module, path, recorder.stack[-1] if recorder.stack else None)
            recorder.stack.append(call)
            recorder.course.calls.append(call)
            call.inputs = values((args, kwargs))

        return hook

    def leave(module: nn.Module, args: Any, result: Any) -> None:  # noqa: ARG001 - torch gives them
        call = recorder.stack.pop()
        call.outputs = values(result)

    try:
        for path, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            handles.append(module.register_forward_pre_hook(enter(path), prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, always_call=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
