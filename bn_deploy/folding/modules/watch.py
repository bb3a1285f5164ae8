"""Watches what a forward asks of its tensors besides their numbers: sizes, type, device, errors.

A truth is a question, which is answered otherwise in another run. A size is a number that asks (`sizes`), a
device a text that does. What is asked and cannot be varied is noted, and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bn_deploy.folding.modules.places import catching_place, is_torch_asking, whole_numbers_in_code
from bn_deploy.folding.modules.sizes import Asker, Rank, watched

_SIZES = (Tensor.size, Tensor.stride, Tensor.numel, Tensor.nelement, Tensor.storage_offset, torch.numel)
_SIZE_GETTERS = (Tensor.shape, Tensor.nbytes)
_RANKS = (Tensor.dim, Tensor.ndimension)
_HANDS_OUT = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__)
_COUNTED = (
    *(Tensor.__len__, Tensor.__iter__, Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.unbind),
    *(Tensor.split, Tensor.chunk, Tensor.tensor_split, Tensor.untyped_storage, torch.unbind, torch.split),
    *(torch.chunk, torch.tensor_split),
)
"""What Python can count: there are as many as a size says, and no one sees who counts them."""

_TRUTHS = (
    *(Tensor.is_contiguous, Tensor.is_inference, Tensor.is_conj, Tensor.is_neg, Tensor.is_pinned),
    *(Tensor.is_shared, torch.is_inference, torch.is_conj, torch.is_neg),
)
_TRUTH_GETTERS = tuple(
    getattr(Tensor, name)
    for name in (
        *("is_cpu", "is_cuda", "is_leaf", "is_meta", "is_mkldnn", "is_mps", "is_nested", "is_quantized"),
        *("is_sparse", "is_xpu", "requires_grad", "retains_grad"),
    )
)
_TYPES = (
    *(Tensor.element_size, Tensor.is_complex, Tensor.is_floating_point, Tensor.is_signed, Tensor.type),
    *(torch.is_complex, torch.is_floating_point, torch.result_type),
)
_TYPE_GETTERS = (Tensor.dtype, Tensor.itemsize)
_UNKNOWN = {
    Tensor._version: "version",
    Tensor.grad: "gradient",
    Tensor.grad_fn: "history",
    Tensor.layout: "layout",
}


class Raised(RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError):
    """An error that might be raised at other inputs. It is caught as any of those that torch raises."""


class Device(str):
    """A device, or its type, that asks when it is compared. torch takes a text for a device."""

    asker: Asker
    whole = True

    @property  # type: ignore[misc]  # `object` lets it be set, too
    def __class__(self) -> Any:
        """What `isinstance` is told."""
        return torch.device if self.whole else str

    @property
    def type(self) -> Device:
        """As that of a device."""
        return _device(self.partition(":")[0], self.asker, whole=False)

    @property
    def index(self) -> Any:
        """As that of a device."""
        return torch.device(str.__str__(self)).index

    def __eq__(self, other: object) -> bool:
        return self.asker.answer(str.__eq__(self, str(other)))

    def __ne__(self, other: object) -> bool:
        return self.asker.answer(str.__ne__(self, str(other)))

    def __hash__(self) -> int:
        return hash(torch.device(str.__str__(self))) if self.whole else str.__hash__(self)

    def __repr__(self) -> str:
        return repr(torch.device(str.__str__(self)) if self.whole else str.__str__(self))


def _device(name: str, asker: Asker, *, whole: bool) -> Device:
    found = Device(name)
    found.asker, found.whole = asker, whole
    return found


class Watch(TorchFunctionMode):
    """Sees every function of torch that the forward calls.

    Attributes:
        used: whether sizes were asked for, or what can be counted was made.
        ranked: whether the number of axes was asked for.
        typed: whether the type of the numbers was asked for.
        failed: what was raised and caught, if anything was.
    """

    def __init__(
        self, asker: Asker, depends: Callable[[Tensor], bool], hand_out: Callable[[Tensor], None]
    ) -> None:
        super().__init__()
        self._asker = asker
        self._depends = depends
        self._hand_out = hand_out
        self.used = False
        self.ranked = False
        self.typed = False
        self.failed: str | None = None

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        getter = getattr(func, "__self__", None)
        caught = None if getattr(func, "__name__", "") == "__get__" else catching_place()
        if caught is not None and self._asker.told(False, {True}, caught):
            raise Raised("this might be raised at other inputs")
        try:
            result = func(*args, **(kwargs or {}))
        except Exception as error:
            if caught is not None:
                self.failed = f"{type(error).__name__} in {getattr(func, '__name__', func)}"
            raise
        if not args or not isinstance(args[0], Tensor) or not self._depends(args[0]):
            return result
        if func in _HANDS_OUT:
            self._hand_out(args[0])
        if func in _RANKS or getter is Tensor.ndim:
            return result if is_torch_asking() else self._rank(result)
        if func in _SIZES or getter in _SIZE_GETTERS or func in _COUNTED:
            self._note_numbers()
        return self._shown(func, getter, result, args)

    def _rank(self, result: int) -> Any:
        self.ranked = True
        found = Rank(result)
        found.asker = self._asker
        return found

    def _note_numbers(self) -> None:
        self.used = True
        self._asker.numbers |= whole_numbers_in_code()

    def _shown(self, func: Any, getter: Any, result: Any, args: tuple[Any, ...]) -> Any:
        """What the forward is shown instead of `result`."""
        if func in _SIZES or getter in _SIZE_GETTERS:
            return self._watched(result)
        if is_torch_asking():
            return result
        if func in _TRUTHS or getter in _TRUTH_GETTERS:
            return self._asker.answer(bool(result))
        if getter is Tensor.device:
            return _device(str(result), self._asker, whole=True)
        converts = func is Tensor.type and len(args) > 1
        self.typed |= getter in _TYPE_GETTERS or (func in _TYPES and not converts)
        if getter in _UNKNOWN:
            self._asker.unknown = f"asks for the {_UNKNOWN[getter]} of a tensor"
        return result

    def _watched(self, sizes: Any) -> Any:
        """One size, or several, that ask."""
        if not isinstance(sizes, tuple):
            return watched(sizes, self._asker)
        found = [watched(size, self._asker) for size in sizes]
        return torch.Size(found) if isinstance(sizes, torch.Size) else tuple(found)
