"""Times the folding of the LeNet, its runs apart, and of ONNX files, with the memory that takes.

python tools/bench_fold.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.bench.measure import CLOCK
from bn_deploy.folding.graph.onnx_file import fold_onnx

ROUNDS = 30

FILES = {
    # what: nodes that a layer consists of; how many layers; their channels; their kernel's size
    "the size of ResNet-50 (53 layers)": (("Conv", "BN", "Relu"), 53, 231, 3),
    "600 MB": (("Conv", "BN", "Relu"), 36, 2048, 1),
    "10,000 nodes: convolutions and batch norms": (("Conv", "BN"), 5000, 8, 1),
    "10,000 nodes: convolutions, sums and batch norms": (("Conv", "Add", "BN"), 3334, 8, 1),
    "10,000 nodes: maxima and batch norms": (("MaxPool", "BN"), 5000, 8, 1),
    "10,000 nodes: rectifiers and batch norms": (("Relu", "BN"), 5000, 8, 1),
    "10,000 nodes: concatenations": (("Conv", "Concat", "BN"), 3334, 8, 1),
}

TWICE = ("the size of ResNet-50 (53 layers)", "600 MB")
"""Those that are folded from two files as well: in the others there is little to be kept apart."""


def main(arguments: list[str]) -> int:
    """Prints how long folding takes, and how much memory."""
    if arguments:
        verb, path, *about = arguments
        if verb == "make":
            _make(Path(path), *about)
        else:
            _measure(Path(path))
        return 0
    for what in FILES:
        for files in ("one file", "two files") if what in TWICE else ("one file",):
            with tempfile.TemporaryDirectory() as folder:
                _alone("make", f"{folder}/model.onnx", what, files)
                print(f"folding {what}, in {files}: {_alone('measure', f'{folder}/model.onnx')}")
    _time_modules()
    return 0


def _alone(*arguments: str) -> str:
    """Runs a part of this file in a process of its own, and returns what it says."""
    # A process starts with the peak of the one that made it, so this one stays small.
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - this file itself
    return done.stdout.strip()


def _make(path: Path, what: str, files: str) -> None:
    """Writes one of FILES."""
    external = files == "two files"
    onnx.save(_chain(*FILES[what]), path, save_as_external_data=external, location="weights")


def _measure(path: Path) -> None:
    """Folds one file and prints seconds and peak memory."""
    size_bytes = sum(file.stat().st_size for file in path.parent.iterdir())
    before_bytes = _peak_bytes()
    start, start_cpu_s = CLOCK(), _processor_s()
    report = fold_onnx(path, path.with_name("folded.onnx"))
    whole_s, cpu_s = CLOCK() - start, _processor_s() - start_cpu_s
    peak_bytes = _peak_bytes()
    print(
        f"{whole_s:.1f} s ({cpu_s:.1f} s of processor time), {len(report.folded)} batch norms gone and "
        f"{len(report.kept)} left, peak memory {peak_bytes / 1e6:.0f} MB, of which "
        f"{before_bytes / 1e6:.0f} MB for Python and its libraries; the file has {size_bytes / 1e6:.0f} MB"
    )


def _processor_s() -> float:
    """How long this process has been computing."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_bytes() -> int:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def _chain(kinds: Sequence[str], layers: int, channels: int, kernel: int) -> onnx.ModelProto:
    """(n, channels, 8, 8) -> the same: layers of `kinds` in a row, behind a convolution if they have none."""
    random = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(array: NDArray[np.float32], name: str) -> str:
        constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(x: str, place: str, inputs: int) -> None:
        weight = random.standard_normal((channels, inputs, kernel, kernel), np.float32)
        nodes.append(
            helper.make_node(
                "Conv", [x, constant(weight, f"w{place}")], [f"Conv{place}"], pads=[kernel // 2] * 4
            )
        )

    def batchnorm(x: str, place: str, width: int) -> None:
        # Around one, so that thousands of them in a row make no number too large.
        numbers = [random.uniform(0.95, 1.05, width).astype(np.float32) for _ in "ghmv"]
        names = [constant(array, f"{key}{place}") for key, array in zip("ghmv", numbers, strict=True)]
        nodes.append(helper.make_node("BatchNormalization", [x, *names], [f"BN{place}"]))

    name, width = "x", channels
    if "Conv" not in kinds:
        conv("x", ".first", channels)
        name = "Conv.first"
    for layer in range(layers):
        before, before_width = name, width
        for kind in kinds:
            if kind == "Conv":
                conv(name, str(layer), width)
                width = channels
            elif kind == "BN":
                batchnorm(name, str(layer), width)
            elif kind == "Add":
                nodes.append(helper.make_node("Add", [name, before], [f"Add{layer}"]))
            elif kind == "Concat":
                # What a layer reads comes along once more, unless it is already twice as wide.
                parts = [name, name] if before_width > channels else [name, before]
                nodes.append(helper.make_node("Concat", parts, [f"Concat{layer}"], axis=1))
                width = channels * 2
            else:
                more: dict[str, Any] = {"kernel_shape": [1, 1]} if kind == "MaxPool" else {}
                nodes.append(helper.make_node(kind, [name], [f"{kind}{layer}"], **more))
            name = f"{kind}{layer}"
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", size, 8, 8])
        for end, size in (("x", channels), (name, width))
    ]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def _time_modules() -> None:
    """Folds the reference network ROUNDS times and prints how long it took."""
    import torch

    from bn_deploy.folding.modules.driver import fold
    from bn_deploy.model import build

    def once() -> float:
        network = build("lenet", "custom").eval()
        start = CLOCK()
        result = fold(network)
        whole_s = CLOCK() - start
        assert not result.report.kept  # noqa: S101 - a fold that does nothing is quickly done
        return whole_s

    torch.set_num_threads(1)
    once()
    print(f"folding the LeNet: {statistics.median(once() for _ in range(ROUNDS)) * 1e3:.1f} ms")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
