"""The new constants that folding makes for an ONNX graph, as exact numbers.

Folding edits weights again and again but rounds once: a new weight is a given one times a factor in float64,
and a new bias is an array in float64. Each is cast to its tensor's type where it is written, and only there.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.arithmetic import FLOATS, Numbers
from bn_deploy.folding.graph.field import Array
from bn_deploy.folding.graph.known import Known
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.folding.outcome import Refusal

_PART = 1 << 18
"""How many numbers of a weight are worked on at a time, so that no large one is held in float64 as well."""


class Constants(Known):
    """What is constant in one graph, and the new weights that folding makes of it.

    Args:
        graph: the main graph, sorted; functions are inlined.
        ir_version: the file format's version, which decides whether inputs may have defaults.
    """

    def __init__(self, graph: ir.Graph, ir_version: int) -> None:
        super().__init__(graph, ir_version)
        self._graph = graph
        self._exact: dict[ir.Value, Array] = {}
        self._scaled: dict[ir.Value, tuple[ir.Value, Array]] = {}
        self._made: dict[tuple[ir.Value, tuple[int, ...], bytes], ir.Value] = {}
        self._peaks: dict[tuple[ir.Value, tuple[int, ...]], Array] = {}
        self._names = set(_names(graph))
        self._copies: dict[ir.Value, ir.Value] = {}
        self._counters: dict[str, itertools.count[int]] = {}
        self._readers = {value: len(value.uses()) for value in graph.initializers.values()}

    def note(self, node: ir.Node, dims: Dims | None) -> None:  # noqa: D102 - as above
        super().note(node, dims)
        self._readers.update((value, len(value.uses())) for value in node.outputs if self.holds(value))

    def factor(self, value: ir.Value) -> tuple[ir.Value, Array]:
        """A weight as the given tensor and what folding has multiplied it with; ones at first."""
        if value in self._scaled:
            return self._scaled[value]
        return value, np.ones([1] * (0 if value.shape is None else len(value.shape)))

    def product(self, base: ir.Value, factor: Array) -> Array:
        """The weight `base` times `factor`.

        Raises:
            Refusal: `base` holds other things than finite numbers.
        """
        given = self.real(base)
        if given is None or not np.isfinite(given).all():
            raise Refusal(f"the weights {base.name} are not finite numbers")
        return given * factor

    def blocks(self, base: ir.Value, factor: Array, *, whole: bool = False) -> Iterator[tuple[slice, Array]]:
        """The weight `base` times `factor`, in float64, part by part along the first axis; or as one part."""
        for rows, part in self._parts(base, whole=whole):
            yield rows, part * (factor[rows] if factor.shape[0] > 1 else factor)

    def peaks(self, base: ir.Value, shape: tuple[int, ...]) -> Array:
        """The largest absolute value of what a factor of `shape` multiplies in `base`, number by number.

        Raises:
            Refusal: `base` holds other things than finite numbers.
        """
        if (base, shape) not in self._peaks:
            found = np.zeros(shape)
            axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
            for rows, part in self._parts(base):
                place = rows if shape[0] > 1 else slice(None)
                largest = np.abs(part).max(axis=axes, keepdims=True, initial=0.0)
                found[place] = np.maximum(found[place], largest)
            self._peaks[base, shape] = found
        found = self._peaks[base, shape]
        if not np.isfinite(found).all():
            raise Refusal(f"the weights {base.name} are not finite numbers")
        return found

    def has_own_copy(self, value: ir.Value | None) -> bool:
        """Whether `value` was folded from a weight that others had a part in, who do not go along."""
        if value not in self._scaled:
            return False
        base, _ = self._scaled[value]
        readers = self._readers.get(base, 0)
        return (readers > 1 and len(value.uses()) < readers) or (readers == 1 and self._made_of_shared(base))

    def _made_of_shared(self, value: ir.Value) -> bool:
        """Whether `value` was computed from real numbers that others read as well."""
        _, inputs, _ = self._pure.get(value, (None, (), None))
        sources = [v for v in inputs if v is not None and v.dtype in FLOATS]
        return any(self._readers.get(v, 0) > 1 or self._made_of_shared(v) for v in sources)

    def scaled(self, base: ir.Value, factor: Array) -> ir.Value:
        """An initializer, `base` times `factor` in the type of `base`; the same one for the same factor."""
        key = (base, factor.shape, factor.tobytes())
        if key not in self._made:
            assert base.dtype is not None  # noqa: S101 - `peaks` has read it
            shape = ir.Shape(np.broadcast_shapes(self._shape(base), factor.shape))
            dtype = base.dtype
            value = self._new(base.name, dtype, shape, lambda: self._written(base, factor, dtype))
            self._made[key], self._scaled[value] = value, (base, factor)
        return self._made[key]

    def exact(self, array: Array, dtype: ir.DataType, like: str | None) -> ir.Value:
        """A new initializer that holds `array` in type `dtype`, named after `like`."""
        value = self._new(like, dtype, ir.Shape(array.shape), lambda: cast(array, dtype))
        self._exact[value] = array
        return value

    def stored(self, value: ir.Value) -> ir.Value:
        """An initializer that holds what `value` does, which is computed from constants."""
        dtype = value.dtype
        assert dtype is not None  # noqa: S101 - its numbers are known
        shape = ir.Shape(self._shape(value))
        new = self._new(value.name, dtype, shape, lambda: cast(self._array(value), dtype))
        self._copies[new] = value
        return new

    def fresh(self, stem: str) -> str:
        """A name that no value has: `stem`, or `stem` with a number."""
        if stem not in self._names:
            name = stem
        else:
            counter = self._counters.setdefault(stem, itertools.count(1))
            name = next(n for n in (f"{stem}_{number}" for number in counter) if n not in self._names)
        self._names.add(name)
        return name

    def _given(self, value: ir.Value) -> Numbers | None:
        if value in self._exact:
            return self._exact[value]
        if value in self._scaled:
            return self.product(*self._scaled[value])
        if value in self._copies:
            return self.array(self._copies[value])
        return super()._given(value)

    def _parts(self, value: ir.Value, *, whole: bool = False) -> Iterator[tuple[slice, Array]]:
        """A weight of one axis or more in float64, part by part along its first axis; or as one part."""
        stored = value.const_value if self._is_stored(value) else None
        given = stored.numpy() if stored is not None else self.array(value)
        assert given is not None  # noqa: S101 - `is_real` has looked
        size = given.shape[0] if whole else max(1, _PART // max(1, math.prod(given.shape[1:])))
        for start in range(0, given.shape[0], max(1, size)):
            rows = slice(start, start + size)
            yield rows, np.asarray(given[rows], dtype=np.float64)

    def _shape(self, value: ir.Value) -> tuple[int, ...]:
        tensor = value.const_value if self._is_given(value) else None
        if tensor is not None:
            return tuple(tensor.shape.numpy())
        return self._array(value).shape

    def _array(self, value: ir.Value) -> Numbers:
        array = self.array(value)
        assert array is not None  # noqa: S101 - `is_real` has looked
        return array

    def _is_stored(self, value: ir.Value) -> bool:
        made = value in self._exact or value in self._scaled or value in self._copies
        return not made and self._is_given(value)

    def _written(self, base: ir.Value, factor: Array, dtype: ir.DataType) -> NDArray[np.generic]:
        """`base` times `factor` in `dtype`, which it is cast to part by part."""
        result = np.empty(np.broadcast_shapes(self._shape(base), factor.shape), dtype=dtype.numpy())
        for rows, part in self.blocks(base, factor):
            result[rows] = cast(part, dtype)
        return result

    def _new(
        self,
        like: str | None,
        dtype: ir.DataType,
        shape: ir.Shape,
        numbers: Callable[[], NDArray[np.generic]],
    ) -> ir.Value:
        """A new initializer under a name that nothing else has."""
        name = self.fresh(f"{(like or 'constant').split('.folded')[0]}.folded")

        def tensor() -> ir.Tensor[NDArray[np.generic]]:
            return ir.Tensor(numbers(), dtype=dtype, name=name)

        value = ir.Value(name=name, shape=shape, type=ir.TensorType(dtype))
        value.const_value = ir.LazyTensor(tensor, dtype, shape, name=name)
        self._graph.register_initializer(value)
        self._held.add(value)
        if self._defaults_are_inputs:
            self._graph.inputs.append(value)
        return value


def cast(array: Array, dtype: ir.DataType) -> NDArray[np.generic]:
    """The one cast of a result to the type in which it is stored."""
    with np.errstate(all="ignore"):  # `check_cast` has looked
        return np.ascontiguousarray(array.astype(dtype.numpy()))


@functools.cache
def range_of(dtype: ir.DataType) -> tuple[float, float]:
    """The smallest positive number for which a type has all its digits, and its largest one."""
    return float(dtype.tiny), float(dtype.max)


def check_cast(array: Array, dtype: ir.DataType, what: str) -> None:
    """Rules out that the cast to `dtype` loses more than rounding does.

    Raises:
        Refusal: a value overflows, or all are so small that the type has fewer digits for them.
    """
    if overflows(array, dtype):
        raise Refusal(f"the folded {what} overflow {dtype.numpy().name}")
    if 0 < float(np.abs(array).max(initial=0.0)) < range_of(dtype)[0]:
        largest = float(np.abs(array).max())
        raise Refusal(f"the folded {what} are at most {largest:.3g}, too small for {dtype.numpy().name}")


def overflows(array: Array, dtype: ir.DataType) -> bool:
    """Whether some number in `array` is not finite in `dtype`."""
    if float(np.abs(array).max(initial=0.0)) <= range_of(dtype)[1]:
        return False
    # It may still be rounded to the largest one.
    return not bool(np.isfinite(cast(array, dtype).astype(np.float64)).all())


def _names(graph: ir.Graph) -> Iterable[str]:
    """Every name of a value in `graph` and in the graphs inside its operators."""
    for part in (graph, *graph.subgraphs()):
        for value in (*part.inputs, *part.initializers.values(), *part.outputs):
            yield value.name or ""
    for node in graph.all_nodes():
        yield from (value.name or "" for value in (*node.inputs, *node.outputs) if value is not None)
