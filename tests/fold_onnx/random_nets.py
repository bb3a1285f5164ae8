"""Random small networks of everything that a map may meet on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.fold_onnx.graphs import BATCH, Net

Value = tuple[str, tuple[int, ...]]
"""A name, and the sizes after the batch."""


class Grower:
    """Adds random nodes to a network."""

    def __init__(self, choose: Callable[[Sequence[Any]], Any], *, seed: int = 0) -> None:
        self.pick = choose
        channels, size = int(self.one(2, 3, 4)), int(self.one(3, 4))
        self.net = Net(("N", channels, size, size), seed=seed)
        self.values: list[Value] = [("x", (channels, size, size))]
        self.used: set[str] = set()
        self.weights: list[str] = []

    def one(self, *options: Any) -> Any:
        return self.pick(options)

    def value(self, rank: int | None = None) -> Value | None:
        """A recent value, of `rank` sizes after the batch."""
        fit = [v for v in self.values[-4:] if rank is None or len(v[1]) == rank]
        return self.pick(fit[::-1]) if fit else None

    def add(self, name: str, dims: tuple[int, ...], *read: str) -> None:
        self.used.update(read)
        self.values.append((name, dims))

    def makers(self) -> tuple[Callable[[], None], ...]:
        """What it may add."""
        return (
            *(self.batchnorm, self.batchnorm, self.batchnorm, self.written_out, self.conv, self.conv),
            *(self.pool, self.join, self.part, self.reshape, self.scalar, self.rectify, self.linear),
            *(self.blocks, self.reduce, self.pad, self.resize, self.split, self.transposed, self.tied),
            *(self.tile, self.sample, self.gather, self.heads),
        )

    def grow(self) -> None:
        """One more node, or a few that belong together."""
        self.pick(self.makers())()

    def batchnorm(self) -> None:
        if found := self.value():
            name, dims = found
            kind = self.one("hard", "positive", "scale")
            if kind == "scale":
                new = self.net.scale(name, dims[0])
            else:
                new = self.net.bn(name, dims[0], positive=kind == "positive")
            self.add(new, dims, name)

    def written_out(self) -> None:
        if found := self.value():
            name, dims = found
            scale, shift, mean, variance = (
                self.net.const(array.reshape(-1, *[1] * (len(dims) - 1)))
                for array in self.net.numbers(dims[0])
            )
            root = self.net.op("Sqrt", self.net.op("Add", variance, self.net.const(1e-5)))
            normal = self.net.op("Div", self.net.op("Sub", name, mean), root)
            new = self.net.op("Add", self.net.op("Mul", normal, scale), shift)
            self.add(new, dims, name)

    def conv(self) -> None:
        if found := self.value(3):
            name, (channels, high, wide) = found
            kernel = int(self.one(1, 2 if min(high, wide) > 2 else 1))
            out = int(self.one(2, channels))
            group = channels if out == channels and self.one(False, True) else 1
            pad = int(self.one(0, 0, 1))
            new = self.net.conv(
                name, channels, out, kernel, bias=bool(self.one(True, False)), group=group, pads=[pad] * 4
            )
            self.add(new, (out, high + 2 * pad - kernel + 1, wide + 2 * pad - kernel + 1), name)

    def pool(self) -> None:
        if found := self.value(3):
            name, (channels, high, wide) = found
            if min(high, wide) < 2:
                return
            kind, pad = self.one("MaxPool", "AveragePool"), int(self.one(0, 1))
            counted = {"count_include_pad": int(self.one(0, 1))} if kind == "AveragePool" else {}
            new = self.net.op(str(kind), name, kernel_shape=[2, 2], pads=[pad] * 4, **counted)
            self.add(new, (channels, high + 2 * pad - 1, wide + 2 * pad - 1), name)

    def join(self) -> None:
        one, other = self.value(), self.value()
        if one is None or other is None or len(one[1]) != len(other[1]):
            return
        kind = self.one("Add", "Sub", "Concat", "Mul", "Max", "Min", "Mean", "Where")
        if kind == "Concat" and one[1][1:] == other[1][1:]:
            new = self.net.op("Concat", one[0], other[0], axis=1)
            self.add(new, (one[1][0] + other[1][0], *one[1][1:]), one[0], other[0])
        elif kind == "Where" and one[1] == other[1]:
            positive = self.net.op("Greater", one[0], self.net.const(0.0))
            self.add(self.net.op("Where", positive, one[0], other[0]), one[1], one[0], other[0])
        elif kind not in ("Concat", "Where") and one[1] == other[1]:
            self.add(self.net.op(str(kind), one[0], other[0]), one[1], one[0], other[0])

    def part(self) -> None:
        if (found := self.value()) and found[1][0] < 99:
            name, dims = found
            index = [
                self.net.const(np.array(numbers))
                for numbers in self.one(
                    ([0], [1], [1]), ([1], [99], [1]), ([-1], [-99], [1], [-1]), ([0], [99], [1], [2])
                )
            ]
            takes = self.net.op("Slice", name, *index)
            numbers = [self.net.constants[c] for c in index]
            start, end = int(numbers[0][0]), int(numbers[1][0])
            step = int(numbers[3][0]) if len(numbers) > 3 else 1
            size = len(range(dims[0])[start : None if end == -99 else end : step])
            if size:
                self.add(takes, (size, *dims[1:]), name)

    def split(self) -> None:
        if (found := self.value()) and found[1][0] > 1:
            name, dims = found
            sizes = [1, dims[0] - 1]
            parts = self.net.op("Split", name, self.net.const(np.array(sizes)), axis=1, outputs=2)
            for part, size in zip(parts, sizes, strict=True):
                self.add(part, (size, *dims[1:]), name)

    def reshape(self) -> None:
        if found := self.value():
            name, dims = found
            kind = self.one("flatten", "shuffle", "transpose", "gather", "unsqueeze")
            if kind == "flatten":
                self.add(self.net.op("Flatten", name), (int(np.prod(dims)),), name)
            elif kind == "unsqueeze" and len(dims) < 3:
                self.add(
                    self.net.op("Unsqueeze", name, self.net.const(np.array([len(dims) + 1]))),
                    (*dims, 1),
                    name,
                )
            elif kind == "transpose" and len(dims) == 3:
                new = self.net.op("Transpose", name, perm=[0, 2, 3, 1])
                self.add(new, (dims[1], dims[2], dims[0]), name)
            elif kind == "gather":
                index = self.net.random.integers(0, dims[0], 3)
                self.add(self.net.op("Gather", name, self.net.const(index), axis=1), (3, *dims[1:]), name)
            elif kind == "shuffle" and dims[0] % 2 == 0:
                one = self.net.op("Reshape", name, self.net.const(np.array([0, 2, dims[0] // 2, *dims[1:]])))
                two = self.net.op("Transpose", one, perm=[0, 2, 1, *range(3, len(dims) + 2)])
                self.add(self.net.op("Reshape", two, self.net.const(np.array([0, *dims]))), dims, name)

    def scalar(self) -> None:
        if found := self.value():
            name, dims = found
            kind = self.one("Mul", "Add", "Neg", "Identity", "Sub")
            constant = [self.net.const(1.5)] if kind in ("Mul", "Add", "Sub") else []
            if kind == "Sub":
                self.add(self.net.op("Sub", constant[0], name), dims, name)
            else:
                self.add(self.net.op(str(kind), name, *constant), dims, name)

    def rectify(self) -> None:
        if found := self.value():
            kind = str(self.one("Relu", "LeakyRelu", "Tanh", "Abs", "Clip", "Max"))
            more = [self.net.const(0.5)] if kind == "Max" else [self.net.const(0.0)] if kind == "Clip" else []
            self.add(self.net.op(kind, found[0], *more), found[1], found[0])

    def linear(self) -> None:
        if (found := self.value()) and len(found[1]) != 2:
            name, dims = found
            if len(dims) == 1:
                transposed = int(self.one(0, 1))
                weight = self.net.normal(3, dims[0]) if transposed else self.net.normal(dims[0], 3)
                bias = [[], [self.net.normal(3)], [self.net.normal(1, 1)]][int(self.one(0, 1, 2))]
                new = self.net.op("Gemm", name, weight, *bias, transB=transposed, alpha=0.5, beta=1.5)
                self.add(new, (3,), name)
            else:
                new = self.net.op("MatMul", name, self.net.normal(dims[-1], 3))
                self.add(self.net.op("Add", new, self.net.normal(3)), (*dims[:-1], 3), name)

    def blocks(self) -> None:
        if found := self.value(3):
            name, (channels, high, wide) = found
            if channels % 4 == 0:
                new = self.net.op("DepthToSpace", name, blocksize=2, mode=str(self.one("DCR", "CRD")))
                self.add(new, (channels // 4, high * 2, wide * 2), name)
            elif high % 2 == wide % 2 == 0 and channels < 8:
                self.add(
                    self.net.op("SpaceToDepth", name, blocksize=2), (channels * 4, high // 2, wide // 2), name
                )

    def reduce(self) -> None:
        if found := self.value(3):
            name, dims = found
            kind = str(self.one("ReduceMean", "ReduceMax", "ReduceSum", "ReduceL2", "GlobalAveragePool"))
            if kind == "GlobalAveragePool":
                self.add(self.net.op(kind, name), (dims[0], 1, 1), name)
            else:
                axes = [[2, 3], [1], [3]][int(self.one(0, 1, 2))]
                left = tuple(size for axis, size in enumerate(dims, 1) if axis not in axes)
                self.add(self.net.op(kind, name, self.net.const(np.array(axes)), keepdims=0), left, name)

    def pad(self) -> None:
        if found := self.value(3):
            name, (channels, high, wide) = found
            mode = str(self.one("constant", "reflect", "edge"))
            more = int(self.one(0, 1)) if mode == "constant" else 0
            pads = self.net.const(np.array([0, more, 1, 0, 0, more, 0, 1]))
            channels += 2 * more
            if min(high, wide) > 1:
                self.add(self.net.op("Pad", name, pads, mode=mode), (channels, high + 1, wide + 1), name)

    def resize(self) -> None:
        if (found := self.value(3)) and max(found[1]) < 9:
            name, (channels, high, wide) = found
            scales = self.net.const(np.array([1, 1, 2, 2], np.float32), np.float32)
            mode = str(self.one("nearest", "linear", "cubic"))
            place = str(self.one("asymmetric", "half_pixel"))
            new = self.net.op("Resize", name, "", scales, mode=mode, coordinate_transformation_mode=place)
            self.add(new, (channels, high * 2, wide * 2), name)

    def transposed(self) -> None:
        if (found := self.value(3)) and max(found[1]) < 9:
            name, (channels, high, wide) = found
            kernel = int(self.one(1, 2))
            new = self.net.op("ConvTranspose", name, self.net.normal(channels, 2, kernel, kernel))
            self.add(new, (2, high + kernel - 1, wide + kernel - 1), name)

    def tied(self) -> None:
        """A weight that other convolutions may have as well."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            shape = (3, channels, 1, 1)
            fit = [weight for weight in self.weights if self.net.constants[weight].shape == shape]
            if not fit:
                fit = [self.net.normal(*shape)]
                self.weights += fit
            self.add(self.net.op("Conv", name, self.one(*fit)), (3, high, wide), name)

    def tile(self) -> None:
        if (found := self.value()) and found[1][0] < 5:
            name, dims = found
            axis = int(self.one(*range(len(dims))))
            repeats = [1] * (len(dims) + 1)
            repeats[axis + 1] = 2
            new = self.net.op("Tile", name, self.net.const(np.array(repeats)))
            self.add(new, tuple(n * r for n, r in zip(dims, repeats[1:], strict=True)), name)

    def sample(self) -> None:
        """At positions that are exact in single precision, in which ONNX's reference counts."""
        if found := self.value(3):
            name, (channels, *_) = found
            grid = self.net.const(self.net.random.integers(-12, 12, (BATCH, 2, 3, 2)) / 8)
            mode = str(self.one("border", "zeros"))
            self.add(self.net.op("GridSample", name, grid, padding_mode=mode), (channels, 2, 3), name)

    def gather(self) -> None:
        """Positions that depend on the input."""
        if found := self.value(3):
            name, dims = found
            positions = self.net.op("ArgMax", self.net.op("Reshape", "x", self.net.const(np.array([-1]))))
            positions = self.net.op("Mul", positions, self.net.const(np.array([0])))
            axis = int(self.one(2, 3))
            new = self.net.op("Gather", name, positions, axis=axis)
            self.add(new, tuple(1 if i == axis else n for i, n in enumerate(dims, 1)), name)

    def heads(self) -> None:
        """A matrix for each channel."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            if self.one(True, False):
                new = self.net.op("MatMul", name, self.net.normal(channels, wide, 2))
                self.add(new, (channels, high, 2), name)
            else:
                new = self.net.op("MatMul", self.net.normal(1, channels, 2, high), name)
                self.add(new, (channels, 2, wide), name)

    def outputs(self) -> list[str]:
        """Everything that nothing reads."""
        return [name for name, _ in self.values if name not in self.used and name != "x"]
