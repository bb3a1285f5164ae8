"""Batch ranges as optimisation profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bn_deploy.engine.options import DEFAULT_BATCH
from bn_deploy.errors import ModelError
from bn_deploy.spec import BatchRange, TensorSpec


def choose(inputs: tuple[TensorSpec, ...], wanted: tuple[BatchRange, ...]) -> tuple[BatchRange, ...]:
    """The batch ranges of the engine, once it is certain that the inputs allow them; at least one.

    Raises:
        ModelError: an input has another dynamic axis than the first, or a fixed batch and not the wanted one.
    """
    for spec in inputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"input {spec} has a dynamic axis that is not the first; only the batch may vary"
            )
    if any(None in spec.shape for spec in inputs):
        return wanted or (DEFAULT_BATCH,)
    size = next((spec.shape[0] for spec in inputs if spec.shape), None) or 1
    fixed = BatchRange(size, size, size)
    if wanted not in ((), (fixed,)):
        raise ModelError(
            f"its batch is fixed at {size}, so {', '.join(map(str, wanted))} cannot be had; export it with "
            "a dynamic batch"
        )
    return (fixed,)


def add(builder: Any, config: Any, inputs: tuple[TensorSpec, ...], ranges: Sequence[BatchRange]) -> None:
    """Adds a profile for each range; a network without a dynamic axis needs none.

    Raises:
        ModelError: TensorRT refuses one.
    """
    dynamic = [spec for spec in inputs if None in spec.shape]
    for batch in ranges if dynamic else ():
        profile = builder.create_optimization_profile()
        for spec in dynamic:
            sizes = (batch.minimum, batch.optimum, batch.maximum)
            profile.set_shape(spec.name, *(spec.bind(size) for size in sizes))
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f"the batch range {batch} was refused")


def select(ranges: Sequence[BatchRange], rows: int) -> int | None:
    """The index of the range to run a batch of `rows` with; None if none takes it.

    Of several it is the one tuned for the nearest size, and of those the first.
    """
    fitting = [n for n, batch in enumerate(ranges) if batch.minimum <= rows <= batch.maximum]
    return min(fitting, key=lambda n: abs(ranges[n].optimum - rows), default=None)
