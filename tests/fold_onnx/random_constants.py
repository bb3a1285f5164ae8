"""Random networks of which weights, shapes and positions are computed, as exporters and layers write it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fold_onnx.random_nets import Grower


class Preparer(Grower):
    """Grows networks with computed constants as well."""

    def makers(self) -> tuple[Callable[[], None], ...]:
        more = (
            *(self.standardised, self.computed_shape, self.chunk, self.einsum, self.picked, self.like),
            *(self.sequence, self.computed_pads, self.normed, self.doubled),
        )
        return (*super().makers(), *more)

    def index(self, *numbers: int) -> str:
        return self.net.const(np.array(numbers))

    def standardised(self) -> None:
        """A convolution of a weight with mean zero and variance one, without a bias."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            weight = self.net.normal(3, channels, 1, 1)
            axes = self.index(1, 2, 3)
            centred = self.net.op("Sub", weight, self.net.op("ReduceMean", weight, axes))
            variance = self.net.op("ReduceMean", self.net.op("Mul", centred, centred), axes)
            root = self.net.op("Sqrt", self.net.op("Add", variance, self.net.const(1e-3)))
            sizes = self.net.op("Slice", self.net.op("Shape", weight), self.index(0), self.index(1))
            zero = self.net.op("CastLike", self.net.const(np.array(0)), name)
            bias = self.net.op("Expand", zero, sizes)
            new = self.net.op("Conv", name, self.net.op("Div", centred, root), bias)
            self.add(new, (3, high, wide), name)

    def size(self, name: str, axis: int) -> str:
        """The size of an axis, read off its shape."""
        return str(self.net.op("Gather", self.net.op("Shape", name), self.index(axis)))

    def computed_shape(self) -> None:
        """Channels come apart or together: (N, C, H, W) to (N, C, H W) or (N, C H, W)."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            sizes = [self.size(name, axis) for axis in range(4)]
            last = self.net.op("Div", self.net.op("Mul", sizes[2], sizes[3]), self.index(1))
            if self.one(True, False):
                shape = self.net.op("Concat", sizes[0], sizes[1], last, axis=0)
                self.add(self.net.op("Reshape", name, shape), (channels, high * wide), name)
            else:
                columns = self.net.op("Mul", sizes[1], sizes[2])
                shape = self.net.op("Concat", sizes[0], columns, sizes[3], axis=0)
                self.add(self.net.op("Reshape", name, shape), (channels * high, wide), name)

    def chunk(self) -> None:
        """Two halves, of which each may be used."""
        if (found := self.value()) and found[1][0] > 1:
            name, (channels, *rest) = found
            half = self.net.op("Div", self.net.op("Add", self.size(name, 1), self.index(1)), self.index(2))
            size = (channels + 1) // 2
            first = self.net.op("Slice", name, self.index(0), half, self.index(1))
            self.add(first, (size, *rest), name)
            if self.one(True, False):
                end = self.net.op("Mul", half, self.index(2))
                second = self.net.op("Slice", name, half, end, self.index(1))
                self.add(second, (channels - size, *rest), name)

    def einsum(self) -> None:
        if found := self.value(3):
            name, (channels, high, wide) = found
            equation, shape, new = self.one(
                ("nchw,oc->nohw", (2, channels), (2, high, wide)),
                ("co,nchw->nohw", (channels, 3), (3, high, wide)),
                ("nchw,cwk->nchk", (channels, wide, 2), (channels, high, 2)),
                ("nchw,oc->no", (3, channels), (3,)),
                ("nc...,co->no...", (channels, 2), (2, high, wide)),
            )
            operands = [name, self.net.normal(*shape)]
            if equation.startswith("co"):
                operands.reverse()
            self.add(self.net.op("Einsum", *operands, equation=equation), new, name)

    def picked(self) -> None:
        """Channels, picked by their number."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            order = self.net.random.permutation(channels)[: max(1, channels - int(self.one(0, 1)))]
            turned = self.net.op("Transpose", name, perm=[1, 0, 2, 3])
            new = self.net.op("GatherND", turned, self.net.const(order.reshape(-1, 1)))
            self.add(self.net.op("Transpose", new, perm=[1, 0, 2, 3]), (order.size, high, wide), name)

    def like(self) -> None:
        if found := self.value():
            name, dims = found
            self.add(self.net.op("CastLike", name, "x"), dims, name)

    def sequence(self) -> None:
        """A part of a sequence of two or three."""
        if (found := self.value()) and found[1][0] > 1:
            name, (channels, *rest) = found
            first = (channels + 1) // 2
            if self.one(True, False):
                sizes, parts = self.net.const(np.array(first)), (first, channels - first)
            else:
                sizes, parts = self.index(1, channels - 1), (1, channels - 1)
            split = self.net.op("SplitToSequence", name, sizes, axis=1)
            for place in self.one((0,), (1,), (1, 0)):
                part = self.net.op("SequenceAt", split, self.net.const(np.array(place)))
                self.add(part, (parts[place], *rest), name)

    def computed_pads(self) -> None:
        """Pads in another order, turned round."""
        if (found := self.value(3)) and min(found[1][1:]) > 1:
            name, (channels, high, wide) = found
            pairs = self.net.op("Reshape", self.index(0, 1, 1, 0, 0, 0, 0, 0), self.index(-1, 2))
            turned = self.net.op(
                "Slice", pairs, self.index(-1), self.index(-9), self.index(0), self.index(-1)
            )
            pads = self.net.op("Reshape", self.net.op("Transpose", turned, perm=[1, 0]), self.index(-1))
            mode = str(self.one("reflect", "edge", "constant"))
            self.add(self.net.op("Pad", name, pads, mode=mode), (channels, high + 1, wide + 1), name)

    def normed(self) -> None:
        """A convolution of a weight of length one, or of low rank, or of which some numbers are zero."""
        if found := self.value(3):
            name, (channels, high, wide) = found
            weight = self.net.normal(3, channels, 1, 1)
            kind = self.one("length", "rank", "mask")
            if kind == "length":
                weight = self.net.op("Div", weight, self.net.op("ReduceL2", weight, self.index(1, 2, 3)))
            elif kind == "rank":
                product = self.net.op("MatMul", self.net.normal(3, 2), self.net.normal(2, channels))
                weight = self.net.op("Reshape", product, self.index(3, channels, 1, 1))
            else:
                small = self.net.op("Less", self.net.op("Abs", weight), self.net.const(0.5))
                weight = self.net.op("Where", small, self.net.const(0.0), weight)
            self.add(self.net.op("Conv", name, weight), (3, high, wide), name)

    def doubled(self) -> None:
        if found := self.value():
            name, dims = found
            self.add(self.net.op(str(self.one("Add", "Sum")), name, name), dims, name)
