"""Convolution and pooling for ONNX's reference implementation, which computes them number by number.

Each has the arguments of the operator that it takes the place of; what it does not know goes to that one.
Half-precision numbers are added up in float32, as accelerators do. ConvTranspose is also a correction: the
reference of onnx 1.23 returns one channel of each group.
Formulas: https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from types import EllipsisType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_average_pool import AveragePool_19
from onnx.reference.ops.op_max_pool import MaxPool as ReferenceMaxPool

from bn_deploy.backends.base import Array

Sizes = Sequence[int] | None


class Conv(OpRun):
    """Convolution, as one matrix product an image and group."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Sizes = None,
        group: int | None = None,
        pads: Sizes = None,
        strides: Sizes = None,
        **_: Any,
    ) -> tuple[Array]:
        groups, kernel, rank = group or 1, w.shape[2:], x.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        begins, ends = _pads(auto_pad, x.shape[2:], extents, strides, pads)
        kind = _sum_type(x.dtype)
        weight = w.astype(kind, copy=False).reshape(groups, w.shape[0] // groups, -1)
        padded = np.pad(x, [(0, 0), (0, 0), *zip(begins, ends, strict=True)])
        windows = sliding_window_view(padded, extents, axis=tuple(range(2, 2 + rank)))
        every: tuple[Any, ...] = (..., *(slice(None, None, step) for step in (*strides, *dilations)))
        windows = windows[every]  # (n, channels, *sizes, *kernel)
        sizes = windows.shape[2 : 2 + rank]
        order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
        y = np.empty((x.shape[0], w.shape[0], *sizes), x.dtype)
        for image, seen in enumerate(windows):
            columns = (
                seen.transpose(order).astype(kind, copy=False).reshape(groups, weight.shape[2], prod(sizes))
            )
            y[image] = _with_bias(np.matmul(weight, columns).reshape(w.shape[0], *sizes), b)
        return (y,)


class ConvTranspose(OpRun):
    """Transposed convolution: every number of the input lays down a multiple of the kernel."""

    op_domain = ""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str | None = None,
        dilations: Sizes = None,
        group: int | None = None,
        output_padding: Sizes = None,
        output_shape: Sizes = None,
        pads: Sizes = None,
        strides: Sizes = None,
        **_: Any,
    ) -> tuple[Array]:
        groups, kernel, rank = group or 1, w.shape[2:], x.ndim - 2
        strides, dilations = list(strides or [1] * rank), list(dilations or [1] * rank)
        more = list(output_padding or [0] * rank)
        full = [
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        if output_shape is None and auto_pad in {"SAME_UPPER", "SAME_LOWER"}:
            output_shape = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        if output_shape is None:
            begins, ends = _split(pads, rank)
            sizes = [f + m - p - q for f, m, p, q in zip(full, more, begins, ends, strict=True)]
        else:
            sizes = list(output_shape)[-rank:]
            cut = [max(0, f + m - size) for f, m, size in zip(full, more, sizes, strict=True)]
            begins = [c // 2 if auto_pad == "SAME_UPPER" else c - c // 2 for c in cut]
        kind = _sum_type(x.dtype)
        channels = w.shape[1] * groups
        weight = w.astype(kind, copy=False).reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1)
        y = np.zeros((x.shape[0], channels, *sizes), x.dtype)
        for image, given in enumerate(x.astype(kind, copy=False)):
            laid = np.matmul(weight, given.reshape(groups, x.shape[1] // groups, -1))
            laid = laid.reshape(channels, *kernel, *x.shape[2:])
            canvas = np.zeros(
                (channels, *(max(f, p + size) for f, p, size in zip(full, begins, sizes, strict=True))), kind
            )
            for place in itertools.product(*map(range, kernel)):
                starts = [at * d for at, d in zip(place, dilations, strict=True)]
                spots: tuple[Any, ...] = (..., *_steps(starts, x.shape[2:], strides))
                laid_here = (slice(None), *place)
                canvas[spots] += laid[laid_here]
            shown: tuple[Any, ...] = (..., *_steps(begins, sizes, [1] * rank))
            y[image] = _with_bias(canvas[shown], b)
        return (y,)


class AveragePool(AveragePool_19):
    """Average pooling, as one sum for each place in the window."""

    op_domain = ""

    def _run(self, x: Array, *, count_include_pad: int | None = None, **attributes: Any) -> tuple[Array, ...]:  # type: ignore[override]  # the base takes a pooling type
        if attributes.get("ceil_mode"):
            given: tuple[Array, ...] = super()._run(x, count_include_pad=count_include_pad or 0, **attributes)  # type: ignore[no-untyped-call]
            return given
        window = _Window.of(x.shape[2:], **attributes)
        kind = _sum_type(x.dtype)
        padded = np.pad(x.astype(kind, copy=False), [(0, 0), (0, 0), *window.around])
        counted = np.pad(np.ones(x.shape[2:], kind), window.around, constant_values=bool(count_include_pad))
        total, count = np.zeros((*x.shape[:2], *window.sizes), kind), np.zeros(window.sizes, kind)
        for place in window.places():
            total += padded[place]
            count += counted[place]
        return ((total / count).astype(x.dtype),)


class MaxPool(ReferenceMaxPool):
    """Maximum pooling, as one comparison for each place in the window."""

    op_domain = ""

    def _run(self, x: Array, **attributes: Any) -> tuple[Array, ...]:  # type: ignore[override]  # likewise
        if attributes.get("ceil_mode") or len(self.onnx_node.output) > 1 or x.dtype.kind in "iu":
            given: tuple[Array, ...] = super()._run(x, **attributes)  # type: ignore[no-untyped-call]
            return given
        window = _Window.of(x.shape[2:], **attributes)
        padded = np.pad(x, [(0, 0), (0, 0), *window.around], constant_values=-np.inf)
        most = np.full((*x.shape[:2], *window.sizes), -np.inf, x.dtype)
        for place in window.places():
            np.maximum(most, padded[place], out=most)
        return (most,)


@dataclass(frozen=True)
class _Window:
    """The window of a pooling operator without rounding up of sizes.

    Attributes:
        sizes: how many places it has along each axis.
        around: what is added before and after each axis.
    """

    sizes: list[int]
    around: list[tuple[int, int]]
    kernel: list[int]
    strides: list[int]
    dilations: list[int]

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        *,
        kernel_shape: Sequence[int],
        auto_pad: str | None = None,
        dilations: Sizes = None,
        pads: Sizes = None,
        strides: Sizes = None,
        **_: Any,
    ) -> _Window:
        """The window that an operator's attributes describe, over an input of this shape."""
        rank = len(shape)
        kernel, strides = list(kernel_shape), list(strides or [1] * rank)
        dilations = list(dilations or [1] * rank)
        extents = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        around = list(zip(*_pads(auto_pad, shape, extents, strides, pads), strict=True))
        padded = [n + sum(pair) for n, pair in zip(shape, around, strict=True)]
        sizes = [(n - e) // s + 1 for n, e, s in zip(padded, extents, strides, strict=True)]
        return cls(sizes, around, kernel, strides, dilations)

    def places(self) -> Iterator[tuple[slice | EllipsisType, ...]]:
        """For each place in the window, what it sees of the padded input along its last axes."""
        for place in itertools.product(*map(range, self.kernel)):
            starts = [at * d for at, d in zip(place, self.dilations, strict=True)]
            yield ..., *_steps(starts, self.sizes, self.strides)


OPERATORS = [Conv, ConvTranspose, AveragePool, MaxPool]
"""What takes the place of operators of the reference implementation."""


def _steps(starts: Sequence[int], counts: Sequence[int], strides: Sequence[int]) -> Iterator[slice]:
    """For each axis, as many places as it counts."""
    for start, count, stride in zip(starts, counts, strides, strict=True):
        yield slice(start, start + (count - 1) * stride + 1, stride)


def _sum_type(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which numbers of type `dtype` are added up."""
    return np.dtype(np.float32) if dtype.itemsize < 4 else dtype


def _with_bias(y: Array, b: Array | None) -> Array:
    """`y` (channels, ...) plus one number a channel."""
    return y if b is None else y + b.astype(y.dtype).reshape(-1, *[1] * (y.ndim - 1))


def _split(pads: Sizes, rank: int) -> tuple[list[int], list[int]]:
    """What is added before and after each axis."""
    pads = list(pads or [0] * (2 * rank))
    return pads[:rank], pads[rank:]


def _pads(
    auto_pad: str | None, sizes: Sequence[int], extents: Sequence[int], strides: Sequence[int], pads: Sizes
) -> tuple[list[int], list[int]]:
    """What an operator whose window has these extents adds before and after each axis."""
    rank = len(sizes)
    if auto_pad in {None, "", "NOTSET"}:
        return _split(pads, rank)
    if auto_pad == "VALID":
        return [0] * rank, [0] * rank
    needed = [max(0, (-(-n // s) - 1) * s + e - n) for n, e, s in zip(sizes, extents, strides, strict=True)]
    less, rest = [n // 2 for n in needed], [n - n // 2 for n in needed]
    return (less, rest) if auto_pad == "SAME_UPPER" else (rest, less)
