"""Small files in single precision, and how their folding is judged by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.folding.outcome import FoldReport
from tests.fold_onnx.graphs import Array, Net

IMAGE = (2, 4, 6, 6)


def bn(net: Net, y: str, channels: int = 4, **attributes: Any) -> str:
    """A batch norm of mild numbers."""
    arrays = net.random.uniform(0.5, 2, (4, channels))
    return str(net.op("BatchNormalization", y, *map(net.const, arrays), **attributes))


def by_runtime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """The outputs, of the graph as it is."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(array) for array in session.run(None, feeds)]


def judged(
    model: onnx.ModelProto, feeds: dict[str, Array], tmp_path: Path, *, merge_branches: bool = False
) -> FoldReport:
    """Folds a file; the boundary and the function are the same, and a second time nothing is left to fold."""
    source, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    source.write_bytes(model.SerializeToString())
    report = fold_onnx(source, target, merge_branches=merge_branches)
    after = onnx.load(target)
    assert after.graph.output == model.graph.output
    if model.ir_version >= 4:
        assert after.graph.input == model.graph.input
    for one, other in zip(by_runtime(model, feeds), by_runtime(after, feeds), strict=True):
        assert one.shape == other.shape
        assert one.dtype == other.dtype
        # Some hundred products and sums, each rounded.
        assert np.abs(one - other).max(initial=0) <= 256 * np.finfo(np.float32).eps * np.abs(one).max(
            initial=1
        )
    assert not fold_onnx(target, tmp_path / "again.onnx", merge_branches=merge_branches).folded
    return report
