"""Where ONNX Runtime reads inputs and writes outputs: bound once per batch size, used by each call."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from bn_deploy.backends.base import Array, Feeds
from bn_deploy.spec import TensorSpec

_SMALL_BYTES = 1 << 15  # copied in 1 to 2 microseconds; binding takes about 8


class Memory(Protocol):
    """The memory of one session's inputs and outputs."""

    def bind(self, outputs: tuple[TensorSpec, ...], batch: int) -> None:
        """Makes room for the outputs of `batch` rows."""

    def load(self, feeds: Feeds) -> None:
        """Makes `feeds` the inputs of the next calls."""

    def reload(self, feeds: Feeds) -> bool:
        """Does what `load` does if `feeds` has the names, types and shapes of the last ones, for sure."""
        ...

    def fetch(self) -> dict[str, Array]:
        """Copies of the outputs."""
        ...


class HostMemory:
    """Inputs are read where they lie, outputs go to arrays that stay: a call allocates nothing.

    An input so small that copying it takes less time than binding it is copied to an array that stays bound.

    Args:
        binding: the session's binding.
    """

    def __init__(self, binding: Any) -> None:
        self._binding = binding
        self._inputs: dict[str, Array] = {}
        self._own: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}

    def bind(self, outputs: tuple[TensorSpec, ...], batch: int) -> None:
        """See Memory."""
        self._outputs = {spec.name: np.empty(spec.bind(batch), spec.dtype) for spec in outputs}
        for name, array in self._outputs.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def load(self, feeds: Feeds) -> None:
        """See Memory."""
        # The binding keeps only a pointer, so each array must be contiguous and must stay alive.
        for name, array in feeds.items():
            if array.nbytes > _SMALL_BYTES:
                self._own.pop(name, None)
                self._bind_input(name, np.ascontiguousarray(array))
                continue
            own = self._own.get(name)
            if own is None or own.shape != array.shape:
                own = self._own[name] = np.empty(array.shape, array.dtype)
                self._bind_input(name, own)
            own[...] = array

    def reload(self, feeds: Feeds) -> bool:
        """See Memory. Only for inputs that are all copied."""
        # What fits into arrays that stay bound needs no other check, which would take as long as copying.
        if not self._own or len(feeds) != len(self._own) or len(self._own) != len(self._inputs):
            return False
        for name, own in self._own.items():
            array = feeds.get(name)
            if array is None or array.shape != own.shape or array.dtype != own.dtype:
                return False
        for name, own in self._own.items():
            own[...] = feeds[name]
        return True

    def fetch(self) -> dict[str, Array]:
        """See Memory."""
        return {name: array.copy() for name, array in self._outputs.items()}

    def _bind_input(self, name: str, array: Array) -> None:
        self._inputs[name] = array
        self._binding.bind_cpu_input(name, array)


class CudaMemory:
    """Values on the first GPU, into which inputs are copied and from which outputs are.

    Args:
        binding: the session's binding.
        value: onnxruntime's OrtValue.
    """

    def __init__(self, binding: Any, value: Any) -> None:
        self._binding = binding
        self._value = value
        self._inputs: dict[str, Any] = {}
        self._outputs: dict[str, Any] = {}

    def bind(self, outputs: tuple[TensorSpec, ...], batch: int) -> None:
        """See Memory."""
        self._inputs = {}
        self._outputs = {spec.name: self._room(spec.bind(batch), spec.dtype) for spec in outputs}
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)

    def load(self, feeds: Feeds) -> None:
        """See Memory."""
        for name, array in feeds.items():
            if name not in self._inputs:
                self._inputs[name] = self._room(array.shape, array.dtype.name)
                self._binding.bind_ortvalue_input(name, self._inputs[name])
            self._inputs[name].update_inplace(np.ascontiguousarray(array))

    def reload(self, feeds: Feeds) -> bool:  # noqa: ARG002 - see Memory
        """See Memory. Never: the check costs little beside a transfer."""
        return False

    def fetch(self) -> dict[str, Array]:
        """See Memory."""
        return {name: value.numpy() for name, value in self._outputs.items()}

    def _room(self, shape: tuple[int, ...], dtype: str) -> Any:
        return self._value.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, "cuda", 0)
