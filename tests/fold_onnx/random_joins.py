"""Random networks of which parts are taken, joined in another order, and added up on the way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.fold_onnx.random_constants import Preparer


class Joiner(Preparer):
    """Grows networks with sequences, rolls and running sums as well."""

    def makers(self) -> tuple[Callable[[], None], ...]:
        more = (self.rolled, self.collected, self.chunks, self.running, self.aligned, self.masked)
        return (*super().makers(), *more)

    def rolled(self) -> None:
        """Two parts of an axis change places; they may overlap, or leave something out."""
        if (found := self.value()) and max(found[1]) > 1:
            name, dims = found
            axis = int(self.one(*(i for i, size in enumerate(dims) if size > 1)))
            at, back = 1 + int(self.one(0, dims[axis] > 2)), int(self.one(0, 0, 1, -1))
            start = min(max(at + back, 0), dims[axis] - 1)
            ends = ((start, dims[axis]), (0, at))
            parts = [
                self.net.op("Slice", name, self.index(a), self.index(b), self.index(axis + 1))
                for a, b in ends
            ]
            sizes = list(dims)
            sizes[axis] = sum(b - a for a, b in ends)
            self.add(self.net.op("Concat", *parts, axis=axis + 1), tuple(sizes), name)

    def collected(self) -> None:
        """Two values of one shape in a sequence, of which one is taken or both are joined."""
        if first := self.value(3):
            name, dims = first
            fit = [value for value in self.values[-6:] if value[1] == dims]
            other, _ = self.one(*fit)
            made = self.net.op("SequenceConstruct", name, other)
            kind = self.one("one", "both", "concat", "stack")
            if kind in ("one", "both"):
                for place in (1, 0)[: 1 + (kind == "both")]:
                    part = self.net.op("SequenceAt", made, self.net.const(np.array(place)))
                    self.add(part, dims, name, other)
                return
            axis = int(self.one(0, 1, 2))
            new = int(kind == "stack")
            joined = self.net.op("ConcatFromSequence", made, axis=axis + 1, new_axis=new)
            sizes = list(dims)
            if new:
                sizes.insert(axis, 2)
            else:
                sizes[axis] *= 2
            self.add(joined, tuple(sizes), name, other)

    def chunks(self) -> None:
        """Split along one axis and joined along another, or the same."""
        if found := self.value(3):
            name, dims = found
            axis, along = int(self.one(0, 1, 2)), int(self.one(0, 1, 2))
            if dims[axis] % 2 == 0:
                half = self.net.const(np.array(dims[axis] // 2))
                split = self.net.op("SplitToSequence", name, half, axis=axis + 1)
                sizes = list(dims)
                sizes[axis] //= 2
                new = int(self.one(0, 1))
                if new:
                    sizes.insert(along, 2)
                else:
                    sizes[along] *= 2
                joined = self.net.op("ConcatFromSequence", split, axis=along + 1, new_axis=new)
                self.add(joined, tuple(sizes), name)

    def running(self) -> None:
        """A sum of all that is before, or a norm of what is around."""
        if found := self.value(3):
            name, dims = found
            axis = self.net.const(np.array(int(self.one(1, 2, 3, -1))))
            options = {key: int(self.one(0, 1)) for key in ("exclusive", "reverse")}
            self.add(self.net.op("CumSum", name, axis, **options), dims, name)

    def aligned(self) -> None:
        """Elements in another order along one axis, each row in its own."""
        if found := self.value(3):
            name, dims = found
            axis = int(self.one(0, 1, 2))
            picked = self.net.op("Cast", self.net.op("Abs", self.net.op("Tanh", name)), to=7)  # zeros
            self.add(self.net.op("GatherElements", name, picked, axis=axis + 1), dims, name)

    def masked(self) -> None:
        """A triangle of each matrix, or a Dropout whose mask is used."""
        if found := self.value(3):
            name, dims = found
            if self.one(True, False):
                self.add(self.net.op("Trilu", name, upper=int(self.one(0, 1))), dims, name)
                return
            kept, mask = self.net.op("Dropout", name, outputs=2)
            self.add(self.net.op("Where", mask, kept, self.net.const(0.5)), dims, name)
