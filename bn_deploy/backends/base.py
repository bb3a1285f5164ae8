"""The one shape of anything that runs a network, and the functions that live beside it.

A runner never times itself, prints, or hands out a buffer that it will use again. What it says of itself
(`device`, `precision`, `provider`) is read back from the runtime, never repeated from the request: a silent
fallback is an error where the runner is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import InputError
from bn_deploy.spec import Precision, TensorSpec

Array = NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Facts:
    """What else decides how fast a runner is, as its runtime tells it; None where it tells no such thing.

    Attributes:
        threads: CPU threads that compute.
        spinning: whether idle threads busy-wait for work instead of sleeping.
        cuda_graph: whether the kernels of a call are launched as one recorded graph.
        no_cuda_graph: why they are not, although that was asked for.
        tf32: whether products of float32 numbers may be rounded to 10 bits of mantissa first.
    """

    threads: int | None = None
    spinning: bool | None = None
    cuda_graph: bool | None = None
    no_cuda_graph: str | None = None
    tf32: bool | None = None


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


def facts(runner: Runner) -> Facts:
    """What the runner tells beyond the protocol, in an attribute `facts`; one that has none tells nothing."""
    told: Facts = getattr(runner, "facts", Facts())
    return told


def loaded_census(runner: Runner) -> Mapping[str, int] | None:
    """How often each operator occurs in the graph that the runtime made of the network when it loaded it.

    A runtime may merge operators by itself, a convolution and a batch norm for instance: what it merges
    anyway, folding beforehand does not speed up. None where the runtime shows no graph. It may load the
    network once more to answer, which takes as long as opening the runner did: not to be asked while
    something is timed.

    Raises:
        InputError: the runner was left.
    """
    ask = getattr(runner, "loaded_census", None)
    census: Mapping[str, int] | None = None if ask is None else ask()
    return census


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Feeds) -> int:
    """Checks that `feeds` is what `inputs` asks for and returns the size of the dynamic axes.

    Raises:
        InputError: a name is missing or unknown, a type or a size differs, or dynamic axes disagree or are
            empty.
    """
    # In one plain loop, because each inference end to end pays for it.
    if feeds.keys() != {spec.name for spec in inputs}:
        wanted, given = ", ".join(spec.name for spec in inputs), ", ".join(sorted(feeds)) or "nothing"
        raise InputError(f"the network takes {wanted}; it was given {given}")
    rows: int | None = None
    for spec in inputs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype):
            raise InputError(f"input {spec} was given {array.dtype}")
        shape = array.shape
        fits = len(shape) == len(spec.shape)
        for size, given_size in zip(spec.shape, shape, strict=False):
            if size is None:
                if rows is not None and given_size != rows:
                    raise InputError(f"the inputs' dynamic axes disagree: {sorted((rows, given_size))}")
                rows = given_size
            elif size != given_size:
                fits = False
        if not fits:
            raise InputError(f"input {spec} was given the shape {' x '.join(map(str, shape))}")
    if rows == 0:
        raise InputError("a batch must have at least 1 row")
    return 1 if rows is None else rows
