"""Notes what a running forward does: torch shows each operator on its way to the kernel."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from bn_deploy.folding.modules.course import HANDED_OUT, Answers, Call, Constant, Course, Op, Slot, Value
from bn_deploy.folding.modules.memory import Memory
from bn_deploy.folding.modules.places import numbers_in_code
from bn_deploy.folding.modules.sizes import Asker, Number, Rank, Real
from bn_deploy.folding.modules.watch import Watch
from bn_deploy.folding.outcome import Refusal

_READS = frozenset(
    {"aten._local_scalar_dense.default", "aten.item.default", "aten.is_nonzero.default"}
    | {"aten.allclose.default", "aten.equal.default"}
)
_LITERALS = frozenset({"aten.lift_fresh.default", "aten.lift.default"})
_LEAKS = frozenset({"aten.resolve_conj.default", "aten.resolve_neg.default"})
"""What `tolist` and `numpy` call before they read the memory itself."""


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """Notes every operator that depends on the inputs, and answers what the forward reads from tensors."""

    def __init__(
        self, network: nn.Module, answers: Answers, whole: Callable[[str], bool], memory: Memory | None = None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's class has no types
        self._memory, self._slow = memory, 0
        self.course = Course()
        self.refusal: Refusal | None = None
        self._answers = list(answers.read)
        self.asker = Asker(answers.told, lambda: self.stack[-1] if self.stack else None)
        self.watch = Watch(self.asker, lambda tensor: tensor in self._values, self._hand_out)
        self._whole = whole
        self._values: MutableMapping[Tensor, Value] = _by_identity()
        self._made: MutableMapping[Tensor, None] = _by_identity()  # made without the inputs
        self._sharing: dict[int, MutableMapping[Tensor, None]] = {}
        self._constants: dict[int, Constant] = {}
        self._slots: dict[int, list[Slot]] = {}
        for path, module in network.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # its parameters cannot be replaced
            for name, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None:
                    self._slots.setdefault(id(tensor), []).append((path, name))
        self.stack: list[Call] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: keeping the compiler away from this mode would import it, which takes seconds."""
        return False

    def new(self, tensor: Tensor) -> Value:
        """Notes that `tensor` holds a new value."""
        value = Value(tuple(int(size) for size in tensor.shape), tensor.dtype)
        self._values[tensor] = value
        self._made.pop(tensor, None)
        self._shared(tensor)[tensor] = None
        return value

    def used_aside(self, tensor: Tensor) -> None:
        """Notes that the forward does something with `tensor` that is no operator on values."""
        self.course.aside.update(self._slots.get(id(tensor), ()))

    def value(self, tensor: Tensor) -> Value | None:
        """The value that `tensor` holds now, or None if it does not depend on the inputs."""
        return self._values.get(tensor)

    def alive(self, returned: set[int]) -> set[Value]:
        """The values whose tensors still exist, but for those of the inputs."""
        left = [tensor for tensor in self._values if id(tensor) not in returned]
        given = set(self.course.inputs)
        if any(self._values[tensor] not in given for tensor in left):
            del left
            gc.collect()
        return set(self._values.values()) - given | {
            self._values[tensor] for tensor in self._values if id(tensor) in returned
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        flat = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        by_chance = torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())
        depends = by_chance or any(tensor in self._values for tensor in flat)
        if depends and name in _READS:
            return self._read(func(*args, **kwargs), flat)
        if depends and not self._whole(name) and _composite(func):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        before = pytree.tree_map_only(Tensor, self._operand, _bound(func, args, kwargs)) if depends else None
        written = [t for t in _written(func, args, kwargs) if isinstance(t, Tensor)]
        self._check_written(written)
        if self._memory is None or self.asker.lied or written:
            result = func(*args, **kwargs)
        else:
            self._slow, result = self._memory.result(self._slow, name, flat, lambda: func(*args, **kwargs))
        if before is None:
            for tensor in flat:
                self.used_aside(tensor)
            for made in _results(result):
                # A literal comes in and goes out as the same tensor.
                if made is not None and (name in _LITERALS or not any(made is given for given in flat)):
                    if name in _LITERALS or not self._is_view(made, flat):
                        self._made[made] = None
                    self._shared(made)[made] = None
            return result
        self._note(name, before, result, flat, written)
        return result

    def _note(
        self, name: str, before: dict[str, Any], result: Any, flat: list[Tensor], written: list[Tensor]
    ) -> None:
        """Notes an operator on values."""
        results = _results(result)
        outputs: list[Value | None] = []
        for tensor in results:
            if tensor is None:
                outputs.append(None)
            elif any(tensor is one for one in written):
                outputs.append(self.new(tensor))
            elif any(tensor is given for given in flat):
                if name not in _LEAKS:
                    return  # it hands on what it got
                outputs.append(None)
            else:
                outputs.append(self.new(tensor))
        op = Op(name, before, outputs, self.stack[-1])
        self.course.ops.append(op)
        for tensor in written:
            if not any(tensor is one for one in results):
                op.outputs.append(self.new(tensor))
                op.exact = False
            self._spread(tensor, op)

    def _spread(self, tensor: Tensor, op: Op) -> None:
        """After a write, whatever shares the memory of `tensor` holds something new too."""
        others = [other for other in self._shared(tensor) if other is not tensor]
        source = self._values[tensor]
        for other in others:
            held = self._operand(other)
            value = self.new(other)
            self.course.ops.append(
                Op("(written through another view)", {"held": held, "source": source}, [value], op.call)
            )

    def _operand(self, tensor: Tensor) -> Value | Constant:
        """What stands for `tensor` in the notes."""
        value = self.value(tensor)
        if value is not None:
            return value
        if id(tensor) not in self._constants:
            # The entry keeps the tensor alive, so that its id stays its own.
            copied = tensor.clone() if tensor in self._made else tensor
            constant = Constant(copied, tuple(self._slots.get(id(tensor), ())))
            if tensor in self._made:
                return constant  # it may be written to later
            self._constants[id(tensor)] = constant
        return self._constants[id(tensor)]

    def _check_written(self, written: list[Tensor]) -> None:
        """Rules out a forward that writes to what it does not make itself."""
        for tensor in written:
            if tensor in self._values or tensor in self._made:
                continue
            name = ".".join(filter(None, self._slots.get(id(tensor), [("", "a tensor that it keeps")])[0]))
            self.refusal = Refusal(f"the forward writes to {name}, so that no two passes need be alike")
            raise self.refusal

    def _is_view(self, tensor: Tensor, given: list[Tensor]) -> bool:
        """Whether `tensor` lies in the memory of something that the network keeps."""
        shared = self._shared(tensor)
        return any(self._shared(one) is shared and one not in self._made for one in given)

    def _shared(self, tensor: Tensor) -> MutableMapping[Tensor, None]:
        """The tensors that are known to lie in the same memory."""
        try:
            key = tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):  # sparse and other layouts have none
            key = -id(tensor)
        return self._sharing.setdefault(key, _by_identity())

    def _hand_out(self, tensor: Tensor) -> None:
        """Notes that Python gets the numbers of a tensor, to do with them what it likes."""
        self.course.ops.append(Op(HANDED_OUT, {"of": self._operand(tensor)}, [], self.stack[-1], exact=False))

    def _read(self, number: Any, tensors: list[Tensor]) -> bool | float:
        """What the forward is told when it reads a number from tensors."""
        others: set[bool | float] = set()
        if isinstance(number, bool):
            others = {not number}
        elif isinstance(number, int):
            others = {0, 1, *map(int, numbers_in_code())}
        elif isinstance(number, float):
            others = {0.0, -1e4, 1e4, *map(float, numbers_in_code())}
        answer = self._answers.pop(0) if self._answers else self.asker.told(number, others)
        self.asker.lied |= answer != number
        self.course.read.append(answer)
        self.course.ops.append(
            Op(
                "(read by the forward)",
                {"tensors": [*map(self._operand, tensors)]},
                [],
                self.stack[-1],
                False,
            )
        )
        return answer


def _by_identity() -> Any:
    """A mapping from tensors, by identity, that does not keep them alive."""
    return WeakIdKeyDictionary()


def _composite(func: Any) -> bool:
    """Whether torch defines the operator by others, for every device."""
    kind: Any = torch._ops.OpOverload
    return bool(
        isinstance(func, kind)
        and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")
    )


def _bound(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """An operator's arguments by name, with those that were left out."""
    bound = {}
    for position, argument in enumerate(func._schema.arguments):
        given = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
        bound[argument.name] = given
    return dict(
        pytree.tree_map_only((Number, Rank, Real), lambda number: _PLAIN[type(number)](number), bound)
    )


_PLAIN: Mapping[type, Callable[[Any], Any]] = {Number: int.__int__, Rank: int.__int__, Real: float.__float__}


def _results(result: Any) -> list[Tensor | None]:
    """An operator's results, in order."""
    items = result if isinstance(result, (tuple, list)) else [result]
    return [item if isinstance(item, Tensor) else None for item in items]


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    """The arguments that an operator writes to."""
    if not func._schema.is_mutable:
        return
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from given if isinstance(given, (list, tuple)) else [given]
