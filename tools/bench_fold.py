"""Times the folding of the LeNet, its runs apart, and of ONNX files, with the memory that takes.

python tools/bench_fold.py
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.bench.measure import CLOCK
from bn_deploy.folding.graph.onnx_file import fold_onnx

ROUNDS = 30

FILES = {
    # what: layers of a convolution, a batch norm and a ReLU; their channels; their kernel's size
    "the size of ResNet-50 (53 layers)": (53, 231, 3),
    "10,000 nodes": (3334, 8, 1),
    "600 MB": (36, 2048, 1),
}


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
        for files in ("one file", "two files"):
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
    start = CLOCK()
    report = fold_onnx(path, path.with_name("folded.onnx"))
    whole_s = CLOCK() - start
    assert not report.kept  # noqa: S101 - a fold that does nothing is quickly done
    peak_bytes = _peak_bytes()
    print(
        f"{whole_s:.1f} s, peak memory {peak_bytes / 1e6:.0f} MB, of which {before_bytes / 1e6:.0f} MB for "
        f"Python and its libraries; the file has {size_bytes / 1e6:.0f} MB"
    )


def _peak_bytes() -> int:
    unit_bytes = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit_bytes


def _chain(layers: int, channels: int, kernel: int) -> onnx.ModelProto:
    """(n, channels, 8, 8) -> the same, through `layers` convolutions with batch norms."""
    random = np.random.default_rng(0)
    nodes, constants, name = [], [], "x"
    for i in range(layers):
        arrays = {"w": random.standard_normal((channels, channels, kernel, kernel), np.float32)}
        arrays |= {key: random.uniform(0.5, 2, channels).astype(np.float32) for key in "ghmv"}
        constants += [numpy_helper.from_array(array, f"{key}{i}") for key, array in arrays.items()]
        nodes.append(helper.make_node("Conv", [name, f"w{i}"], [f"c{i}"], pads=[kernel // 2] * 4))
        nodes.append(
            helper.make_node("BatchNormalization", [f"c{i}", *(f"{key}{i}" for key in "ghmv")], [f"n{i}"])
        )
        nodes.append(helper.make_node("Relu", [f"n{i}"], [f"r{i}"]))
        name = f"r{i}"
    ends = [
        helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", channels, 8, 8]) for end in ("x", name)
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
