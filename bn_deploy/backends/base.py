"""The one shape of anything that runs a network, and the functions that live beside it.

A runner never times itself, prints, or hands out a buffer that it will use again. What it says of itself
(`device`, `precision`, `provider`) is read back from the runtime, never repeated from the request: a silent
fallback is an error where the runner is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import InputError
from bn_deploy.spec import Precision, TensorSpec

Array = NDArray[Any]
Feeds = Mapping[str, Array]


class Runner(Protocol):
    """A network loaded into a runtime.

    Four verbs, because the clock belongs to whoever measures: `enqueue` and `synchronize` are the scope
    *compute*; `load`, `enqueue`, `synchronize`, `fetch` are *end to end*. A runtime that cannot work
    asynchronously may block in `enqueue`.

    Attributes:
        backend: the row of BACKENDS it belongs to.
        inputs: what it takes.
        outputs: what it gives.
        device: where it computes, in words.
        precision: the number format it computes in.
        provider: the runtime's component that computes, such as "CPUExecutionProvider".
    """

    @property
    def backend(self) -> str: ...  # noqa: D102 - described on the class
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102 - described on the class
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...  # noqa: D102 - described on the class
    @property
    def device(self) -> str: ...  # noqa: D102 - described on the class
    @property
    def precision(self) -> Precision: ...  # noqa: D102 - described on the class
    @property
    def provider(self) -> str: ...  # noqa: D102 - described on the class

    def load(self, feeds: Feeds) -> None:
        """Moves the inputs to where the runner computes.

        A runner that computes where the arrays lie may use them in place: they must not change before the
        outputs were fetched.

        Raises:
            InputError: a name, a type or a shape is not what `inputs` says.
        """

    def enqueue(self) -> None:
        """Starts computing on what was loaded; may be called again and again.

        Raises:
            InputError: nothing was loaded.
            ModelError: the runtime cannot run the network.
        """

    def synchronize(self) -> None:
        """Waits until everything that was started is done."""

    def fetch(self) -> dict[str, Array]:
        """The outputs, in memory that the caller owns.

        Raises:
            InputError: nothing was computed.
        """
        ...

    def __enter__(self) -> Runner: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def infer(runner: Runner, feeds: Feeds) -> dict[str, Array]:
    """One inference, end to end: inputs in, outputs out, all in the caller's memory."""
    runner.load(feeds)
    runner.enqueue()
    runner.synchronize()
    return runner.fetch()


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Feeds) -> int:
    """Checks that `feeds` is what `inputs` asks for and returns the size of the dynamic axes.

    Raises:
        InputError: a name is missing or unknown, a type or a size differs, or dynamic axes disagree or are
            empty.
    """
    wanted = [spec.name for spec in inputs]
    if sorted(feeds) != sorted(wanted):
        given = ", ".join(sorted(feeds)) or "nothing"
        raise InputError(f"the network takes {', '.join(wanted)}; it was given {given}")
    dynamic: set[int] = set()
    for spec in inputs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(f"input {spec} was given {array.dtype}")
        fits = len(array.shape) == len(spec.shape) and all(
            size is None or size == given for size, given in zip(spec.shape, array.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input {spec} was given the shape {' x '.join(map(str, array.shape))}")
        dynamic |= {given for size, given in zip(spec.shape, array.shape, strict=True) if size is None}
    if len(dynamic) > 1:
        raise InputError(f"the inputs' dynamic axes disagree: {sorted(dynamic)}")
    if 0 in dynamic:
        raise InputError("a batch must have at least 1 row")
    return dynamic.pop() if dynamic else 1
