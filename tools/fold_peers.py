"""The tools that tools/fold_survey.py compares, as one table: each makes an ONNX file of a network.

Each is called as its manual says, with its defaults. A tool that takes ONNX gets the file that this package's
exporter writes, which folds nothing; what a tool for modules returns is written by the same exporter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import bn_deploy
from tests.architectures.exported import write
from tests.architectures.row import Architecture


@dataclass(frozen=True)
class Task:
    """What a tool gets.

    Attributes:
        row: the architecture.
        network: it, in float32 and eval mode.
        x: an input, (2, *row.shape).
        source: its ONNX file, in which nothing is folded.
        result: the file to make.
    """

    row: Architecture
    network: nn.Module
    x: Tensor
    source: Path
    result: Path


@dataclass(frozen=True)
class Tool:
    """One row of the table.

    Attributes:
        package: the distribution that it comes from.
        make: calls it; returns how many batch norms it says it has left, 0 if it says nothing.
    """

    package: str
    make: Callable[[Task], int]


def _nothing(task: Task) -> int:
    task.result.write_bytes(task.source.read_bytes())
    return 0


def _modules(task: Task) -> int:
    folded = bn_deploy.fold(task.network, (task.x,))
    write(folded.module, task.row, task.result)
    return len(folded.report.kept)


def _graph(task: Task) -> int:
    return len(bn_deploy.fold_onnx(task.source, task.result).kept)


def _fx(task: Task) -> int:
    from torch.fx.experimental.optimization import fuse

    fused = fuse(task.network).eval()  # the containers that tracing makes anew are in training mode
    write(fused, task.row, task.result)
    return 0


def _exporter(task: Task) -> int:
    batch = {0: torch.export.Dim("batch", min=1)}
    with torch.no_grad():
        program = torch.onnx.export(
            task.network,
            (task.x,),
            dynamo=True,
            optimize=True,
            input_names=["x"],
            output_names=["y"],
            dynamic_shapes=(batch,),
        )
    if program is None:
        raise RuntimeError("the exporter returned nothing")
    program.save(task.result)
    return 0


def _onnxslim(task: Task) -> int:
    import onnxslim

    onnxslim.slim(str(task.source), str(task.result))
    return 0


def _onnxsim(task: Task) -> int:
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(onnx.load(task.source))
    onnx.save(model, task.result)
    return 0


def _onnxruntime(task: Task) -> int:
    import onnxruntime as ort

    options = ort.SessionOptions()
    # All that folds batch norms is of the basic level; above it, files are no longer plain ONNX.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(task.result)
    ort.InferenceSession(str(task.source), options, providers=["CPUExecutionProvider"])
    return 0


TOOLS: dict[str, Tool] = {
    "(as exported)": Tool("torch", _nothing),
    "bn-deploy, modules": Tool("bn-deploy", _modules),
    "bn-deploy, graph": Tool("bn-deploy", _graph),
    "torch fx fuse": Tool("torch", _fx),
    "torch exporter": Tool("torch", _exporter),
    "onnxslim": Tool("onnxslim", _onnxslim),
    "onnxsim": Tool("onnxsim", _onnxsim),
    "ONNX Runtime": Tool("onnxruntime", _onnxruntime),
}
