"""Small ONNX graphs in float64, written node by node, and how their folding is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.outcome import FoldReport

Array = NDArray[Any]
Size = int | str | None

BATCH = 2
"""What every size that is not a number stands for."""


class Net:
    """A graph under construction. Methods return the name of the new value.

    Args:
        shapes: of the inputs, which are called x, x1, ...
        dtype: numpy's type of every real tensor.
    """

    def __init__(
        self, *shapes: Sequence[Size], dtype: Any = np.float64, opset: int = 18, seed: int = 0
    ) -> None:
        self.shapes = {("x" if not i else f"x{i}"): tuple(shape) for i, shape in enumerate(shapes)}
        self.dtype, self.opset = np.dtype(dtype), opset
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self.outputs: list[str] = []
        self.inner: list[Any] = []

    def const(self, array: Any, dtype: Any = None) -> str:
        """An initializer."""
        array = np.asarray(array)
        if dtype is not None or array.dtype.kind == "f":
            array = array.astype(dtype or self.dtype)
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def normal(self, *shape: int) -> str:
        """An initializer of normal numbers."""
        return self.const(self.random.standard_normal(shape))

    def op(self, op_type: str, *inputs: Any, outputs: Any = 1, **attributes: Any) -> Any:
        """A node; the name of its output, or names of its outputs."""
        base = f"{op_type.lower()}{len(self.nodes)}"
        names = [base if not i else f"{base}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n_{base}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(
        self,
        x: str,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        *,
        rank: int = 4,
        bias: bool = True,
        **a: Any,
    ) -> str:
        """A convolution."""
        groups = a.get("group", 1)
        weights = [self.normal(outputs, inputs // groups, *[kernel] * (rank - 2))]
        return str(self.op("Conv", x, *weights, *([self.normal(outputs)] if bias else []), **a))

    def numbers(self, channels: int) -> tuple[Array, Array, Array, Array]:
        """Hard numbers of a batch norm: scales of both signs and zero, variances from 1e-4 to 1e2."""
        scale = self.random.standard_normal(channels)
        scale[0] = -abs(scale[0])
        if channels > 2:
            scale[1] = 0
        variance = 10 ** self.random.uniform(-4, 2, channels)
        mean = self.random.standard_normal(channels)
        return scale, self.random.standard_normal(channels), mean, variance

    def bn(self, x: str, channels: int, *, positive: bool = False, **attributes: Any) -> str:
        """A batch norm with hard numbers."""
        scale, *rest = self.numbers(channels)
        scale = np.abs(scale) + 0.1 if positive else scale
        return str(self.op("BatchNormalization", x, *map(self.const, (scale, *rest)), **attributes))

    def scale(self, x: str, channels: int) -> str:
        """A batch norm that only scales, by positive numbers."""
        zeros, ones = self.const(np.zeros(channels)), self.const(np.ones(channels))
        scale = self.const(np.abs(self.random.standard_normal(channels)) + 0.1)
        return str(self.op("BatchNormalization", x, scale, zeros, zeros, ones))

    def model(self, *outputs: str, ir_version: int = 10) -> onnx.ModelProto:
        """The model that returns `outputs`, of any shape."""
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = [helper.make_tensor_value_info(n, element, shape) for n, shape in self.shapes.items()]
        initializers = [numpy_helper.from_array(array, name) for name, array in self.constants.items()]
        blank = [onnx.ValueInfoProto(name=name) for name in outputs]
        for initializer in initializers if ir_version < 4 else []:
            inputs.append(
                helper.make_tensor_value_info(initializer.name, initializer.data_type, initializer.dims)
            )
        graph = helper.make_graph(self.nodes, "g", inputs, blank, initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=ir_version
        )
        known = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.output
        for blank_output, output in zip(model.graph.output, known, strict=True):
            blank_output.CopyFrom(output)
        return model

    def feeds(self, seed: int = 1) -> dict[str, Array]:
        """Random inputs."""
        random = np.random.default_rng(seed)
        return {
            name: random.standard_normal([s if isinstance(s, int) else BATCH for s in shape]).astype(
                self.dtype
            )
            for name, shape in self.shapes.items()
        }


def census(model: onnx.ModelProto) -> dict[str, int]:
    """How often each operator occurs."""
    return dict(Counter(node.op_type for node in model.graph.node))


def untouched(before: onnx.ModelProto, after: onnx.ModelProto) -> bool:
    """Whether the two have the same nodes and the same numbers."""
    pairs = [(list(m.graph.node), list(m.graph.initializer)) for m in (before, after)]
    return pairs[0] == pairs[1]


def run(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """The outputs by ONNX's reference implementation, which computes in the model's own type."""
    return [np.asarray(array) for array in ReferenceEvaluator(model).run(None, feeds)]


def folded(model: onnx.ModelProto, **options: Any) -> tuple[onnx.ModelProto, FoldReport]:
    """A folded copy that is valid ONNX, and what became of each batch norm."""
    graph = ir.from_proto(model)
    report = fold_model(graph, **options)
    after = ir.to_proto(graph)
    onnx.checker.check_model(after, full_check=True)
    return after, report


def assert_same(before: onnx.ModelProto, after: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    """Both compute the same in float64.

    Of sixteen digits a few layers of hard numbers lose less than half, while a wrong fold is wrong in the
    first.
    """
    for one, other in zip(run(before, feeds), run(after, feeds), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        gap = np.abs(one - other).max(initial=0)
        assert gap <= np.sqrt(np.finfo(np.float64).eps) * max(1e-3, np.abs(one).max(initial=0)), (
            f"off by {gap:.3g}"
        )


def assert_faithful(
    net: Net, *outputs: str, ir_version: int = 10, **options: bool
) -> tuple[onnx.ModelProto, FoldReport]:
    """Folds; the result is valid, computes the same, keeps its boundary, and has nothing left to fold."""
    before = net.model(*outputs, ir_version=ir_version)
    onnx.checker.check_model(before, full_check=True)
    after, report = folded(before, **options)
    for seed in (1, 2):
        assert_same(before, after, net.feeds(seed))
    assert [v.name for v in after.graph.output] == list(outputs)
    assert [v.name for v in after.graph.input if v.name in net.shapes] == list(net.shapes)
    again, second = folded(after, **options)
    assert again == after, "a second fold changes something"
    assert not second.folded
    return after, report


def assert_folds(net: Net, *outputs: str, left: dict[str, int] | None = None, **options: bool) -> FoldReport:
    """Every batch norm of `net` folds; `left` are the operators that must remain."""
    after, report = assert_faithful(net, *outputs, **options)
    assert not report.kept, report
    assert report.folded
    if left is not None:
        assert census(after) == left
    return report


def assert_keeps(net: Net, *outputs: str, because: str, **options: bool) -> FoldReport:
    """Every batch norm of `net` stays, for a reason that contains `because`."""
    _, report = assert_faithful(net, *outputs, **options)
    assert not report.folded, report
    assert report.kept
    assert all(because in entry.reason for entry in report.kept), report
    return report


def judged(net: Net, *outputs: str) -> str | None:
    """The outcomes, or None if the folded network is found to be wrong."""
    try:
        return str(assert_faithful(net, *outputs)[1])
    except (AssertionError, ValueError, IndexError):
        return None
