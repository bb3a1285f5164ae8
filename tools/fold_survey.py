"""Folds ten architectures with every tool there is, and prints what each leaves and whether it is right.

    python tools/fold_survey.py [--json FILE]

The architectures are those of tests/architectures, with torch's batch norms and with hand-written ones. What
a tool leaves is counted by `bn_deploy.fold_onnx`, run over the tool's file: every BatchNormalization, and
every run of elementwise operators that amounts to one; a tool that says it left more is taken at its word.
The error is the root mean square distance of the file's float32 outputs (ONNX Runtime without optimizations)
to the original network's in float64, relative to these.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import importlib.metadata
import multiprocessing
import os
import platform
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where `tests` lies

import bn_deploy
from bn_deploy.artifact import read_json, write_json
from bn_deploy.errors import first_line
from fold_peers import TOOLS, Task
from fold_table import table
from tests.architectures import ARCHITECTURES
from tests.architectures.exported import write
from tests.architectures.numbers import inputs, network

FLAVOURS = {"torch": "torch's batch norm", "textbook": "the textbook's, written out by hand"}
PACKAGES = ("bn-deploy", "torch", "onnx", "onnxscript", "onnxslim", "onnxsim", "onnxruntime")
IMAGES = 64
PATIENCE_S = 300.0
"""After which a tool counts as crashed: far more than all of them need together."""

PRELOADED = ["onnxruntime", "torch.onnx", "onnxscript.optimizer", "onnxscript.rewriter", "bn_deploy"]
"""What each process has from its start; importing it takes longer than most tools."""

Cell = dict[str, Any]


def main() -> int:
    """Surveys, prints, and writes what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write what was found")
    arguments = parser.parse_args()
    if _version("onnxruntime") is None:
        print("the survey needs onnxruntime: pip install 'bn-deploy[survey]'", file=sys.stderr)
        return 3
    found = survey()
    print(table(found))
    if arguments.json is not None:
        write_json(arguments.json, found)
    return 0


def survey() -> dict[str, Any]:
    """What every tool makes of every architecture; the same on every run but for the date."""
    versions = {"Python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    here = [tool for tool, row in TOOLS.items() if _version(row.package) is not None]
    pairs = [(flavour, name) for flavour in FLAVOURS for name in ARCHITECTURES]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as threads:
        answers = threads.map(lambda pair: _answers(pair[0], pair[1], here, Path(folder, *pair)), pairs)
        cells = dict(zip(pairs, answers, strict=True))
    return {
        "date": dt.datetime.now(dt.timezone.utc).date().isoformat(),
        "versions": {name: version or "not installed" for name, version in versions.items()},
        "architectures": {
            name: {"batchnorms": row.batchnorms, "foldable": row.foldable}
            for name, row in ARCHITECTURES.items()
        },
        "flavours": {
            title: {
                tool: {name: cells[flavour, name][tool] for name in ARCHITECTURES}
                if tool in here
                else "not installed"
                for tool in TOOLS
            }
            for flavour, title in FLAVOURS.items()
        },
    }


def _answers(flavour: str, name: str, tools: list[str], folder: Path) -> dict[str, Cell]:
    """What `tools` make of one network. A tool that takes its process down is that, and the others go on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    found: dict[str, Cell] = {}
    while left := [tool for tool in tools if tool not in found]:
        process = context.Process(target=_work, args=(flavour, name, left, folder))
        process.start()
        process.join(PATIENCE_S)
        late = process.is_alive()
        if late:
            process.kill()
            process.join()
        found |= {tool: read_json(path) for tool in left if (path := folder / f"{tool}.json").is_file()}
        if missing := [tool for tool in left if tool not in found]:
            end = f"not done after {PATIENCE_S:.0f} s" if late else f"exit code {process.exitcode}"
            found[missing[0]] = {"crashed": end}
    return found


def _work(flavour: str, name: str, tools: list[str], folder: Path) -> None:
    """In a process of its own: gives one network to each tool, and writes down what it answers."""
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    folder.mkdir(parents=True, exist_ok=True)
    row, source = ARCHITECTURES[name], folder / "source.onnx"
    original = network(row, flavour)
    write(original, row, source)
    for tool in tools:
        result = folder / f"{tool}.onnx"
        cell: Cell
        try:
            said = TOOLS[tool].make(Task(row, copy.deepcopy(original), inputs(row, 2), source, result))
            cell = {"left": max(said, _left(result)), "error": _error(original, inputs(row, IMAGES), result)}
        except Exception as error:  # the survey is about what tools do
            made = "its file cannot be used: " if result.is_file() else ""
            cell = {"crashed": f"{made}{first_line(error)}"}
        write_json(folder / f"{tool}.json", cell)


def _left(path: Path) -> int:
    """How many batch norms there are in a file, as operators or written out."""
    report = bn_deploy.fold_onnx(path, path.with_suffix(".counted"))
    return len(report.folded) + len(report.kept)


def _error(original: torch.nn.Module, x: torch.Tensor, path: Path) -> float:
    """The distance of what a file computes to what the network computes in float64, relative to that."""
    import onnxruntime as ort

    with torch.no_grad():
        exact = copy.deepcopy(original).double()(x.double()).numpy()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return float(np.sqrt(np.mean(np.square(given - exact)) / np.mean(np.square(exact))))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
