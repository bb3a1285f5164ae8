"""Random networks of which weights, shapes and positions are computed, as exporters and layers write it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fold_onnx.random_nets import Grower


class Preparer(Grower):
    """Grows networks with computed constants as well."""

    def makers(self) -> tuple[Callable[[], None], ...]:
        more = (self.standardised, self.computed_shape, self.chunk, self.einsum, self.picked, self.like)
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
