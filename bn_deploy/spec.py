"""Nouns that every stage shares: tensors at a boundary, precisions, the stages of a network's life.

Standard library only, so that the command line can name them without loading a framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

T = TypeVar("T")


class Precision(str, Enum):
    """The number format in which a network computes."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_FP16 = "int8+fp16"  # int8 where it was quantised, fp16 elsewhere


TENSORRT_10, TENSORRT_8 = TARGETS = ("10+", "8.x")
"""The versions of TensorRT that a typed file may be for. TensorRT 8 reads the scales of Q/DQ as float32 and
chooses fp16 by itself, so its int8+fp16 is a float32 graph with Q/DQ; from 10 on each tensor has the type
that the graph gives it. In other precisions both take the same file."""

CALIBRATION_IMAGES = 512
"""How many training images a precision is measured on. Measured on the reference network: from 32 to 8,192
images the accuracy of its int8 file moves by 0.07 points."""


class Stage(str, Enum):
    """The forms a network passes through, in order; each is compared with the one that it was made from."""

    TRAINED = "trained"
    CONVERTED = "converted"
    NATIVE = "native"  # the ONNX file of the converted network
    FOLDED = "folded"
    ONNX = "onnx"  # the ONNX file of the folded network
    ENGINE = "engine"

    @property
    def parent(self) -> Stage | None:
        """The form that this one is made from; None for the trained network."""
        return _PARENTS.get(self)


_PARENTS = {
    Stage.CONVERTED: Stage.TRAINED,
    Stage.NATIVE: Stage.CONVERTED,
    Stage.FOLDED: Stage.CONVERTED,
    Stage.ONNX: Stage.FOLDED,
    Stage.ENGINE: Stage.ONNX,
}


def typed_stage(stage: Stage, precision: Precision) -> str:
    """What a form is called in a precision: in fp32 as the stage, otherwise such as "onnx.fp16"."""
    return stage.value if precision is Precision.FP32 else f"{stage.value}.{precision.value}"


def ancestors(name: str) -> Iterator[str]:
    """The forms that the form called `name` is made from, the nearest first; none of a name that is no form.

    An ONNX file in a precision is made from the one in fp32, and an engine from the ONNX file in its own.
    """
    stage, _, precision = name.partition(".")
    if stage not in {one.value for one in Stage}:
        return
    if precision:
        if stage == Stage.ENGINE.value:
            yield f"{Stage.ONNX.value}.{precision}"
        yield Stage.ONNX.value
        stage = Stage.ONNX.value
    before = Stage(stage).parent
    while before is not None:
        yield before.value
        before = before.parent


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a network.

    Attributes:
        name: the tensor's name, the same in every runtime.
        shape: its sizes; None marks a dynamic axis.
        dtype: numpy's name of the element type, such as "float32".
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        sizes = " x ".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"

    def bind(self, batch: int) -> tuple[int, ...]:
        """The concrete shape for `batch` rows: every dynamic axis takes that size."""
        return tuple(batch if size is None else size for size in self.shape)


@dataclass(frozen=True)
class BatchRange:
    """The batch sizes an engine accepts: smallest, the one it is tuned for, largest."""

    minimum: int
    optimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.optimum <= self.maximum:
            raise ValueError(f"batch sizes must satisfy 1 <= min <= opt <= max, not {self}")

    def __str__(self) -> str:
        return f"{self.minimum}:{self.optimum}:{self.maximum}"

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """Reads "min:opt:max", or one number for a fixed batch.

        Raises:
            ValueError: the text is neither, or the sizes are not 1 <= min <= opt <= max.
        """
        try:
            sizes = [int(part) for part in text.split(":")]
        except ValueError:
            raise ValueError(f"expected MIN:OPT:MAX or one number, not {text!r}") from None
        if len(sizes) == 1:
            sizes *= 3
        if len(sizes) != 3:
            raise ValueError(f"expected MIN:OPT:MAX or one number, not {text!r}")
        return cls(*sizes)


class Track(Protocol):
    """How long work tells that it advances: wraps an iterable and yields its items unchanged.

    Stages take one and never print; the command line passes one that draws a progress bar.
    """

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yields each of the `total` items; `description` says what one of them is a step of."""
        ...


def silent(items: Iterable[T], description: str, total: int) -> Iterator[T]:  # noqa: ARG001 - see Track
    """The Track that shows nothing."""
    return iter(items)


def announced(track: Track, description: str, work: Callable[[], T]) -> T:
    """Does `work`, which cannot tell how far it is, under its name: one step of one."""
    (result,) = [work() for _ in track((None,), description, 1)]
    return result
