"""The house rules, as data: who may import whom, where each foreign library lives, what --help may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bn_deploy"

VOCABULARY = {"errors", "spec", "artifact", "version"}

ROOMS: dict[str, set[str]] = {
    # a room: the rooms that it may import, besides the vocabulary
    "errors": set(),
    "spec": set(),
    "version": set(),
    "artifact": set(),
    "batchnorm": set(),
    "data": set(),
    "model": {"batchnorm"},
    "train": {"batchnorm", "data", "model"},
    "onnxfile": set(),
    "precision": set(),
    "folding": {"batchnorm", "onnxfile"},
    "exporting": set(),
    "engine": set(),
    "backends": {"engine"},
    "verify": {"backends", "data", "onnxfile"},
    "bench": {"backends"},
    "report": {"bench", "exporting", "folding", "precision", "train", "verify"},
    "inspecting": {"backends", "engine", "precision"},
    "run_folder": set(),
    "doctor": {"backends", "bench", "engine"},
    "pipeline": {
        *("backends", "batchnorm", "bench", "data", "engine", "exporting", "folding", "model"),
        *("onnxfile", "precision", "report", "run_folder", "train", "verify"),
    },
    "cli": {
        *("backends", "bench", "data", "doctor", "engine", "inspecting", "model", "pipeline", "report"),
        *("run_folder", "train", "verify"),
    },
    "__init__": {"batchnorm", "engine", "exporting", "folding", "train"},
    "__main__": {"cli"},
}

HOMES: dict[str, set[str]] = {
    # a foreign library: the only files that may import it; a name without a dot is a whole room
    "click": {"cli"},
    "rich": {"cli", "report/layout.py"},
    "matplotlib": {"report/plots.py"},
    "tensorrt": {"engine/api.py"},
    "tensorrt_lean": {"engine/api.py"},
    "tensorrt_rtx": {"engine/api.py"},
    "cuda": {"backends/memory_choice.py"},
    "onnxruntime": {"backends/onnxrt.py", "doctor.py", "precision/runtime.py"},
    "openvino": {"backends/openvino_cpu.py"},
    "onnxscript": {"exporting/onnx_file.py"},
    "safetensors": {"inspecting/weights.py", "train/checkpoint.py"},
    "platformdirs": {"data/fashion_mnist.py", "engine/timing_cache.py"},
    "urllib": {"data/download.py"},
    "time": {"bench/measure.py"},
    "torch": {
        *(
            "batchnorm",
            "folding",
            "model",
            "train",
            "exporting/onnx_file.py",
            "backends/pytorch.py",
            "backends/torch_compiled.py",
        ),
        *(
            "backends/memory_choice.py",
            "pipeline/forms.py",
            "pipeline/localising.py",
            "verify/bounds.py",
            "verify/call.py",
        ),
        *("verify/certify.py", "verify/layers.py", "verify/perturb.py", "verify/program.py"),
        *("verify/rerun.py", "verify/rules.py"),
    },
}

FILES = sorted(PACKAGE.rglob("*.py"))


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def _room(path: Path) -> str:
    return _name(path).split("/")[0].removesuffix(".py")


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere, in full."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)} imports relatively"
            module = node.module or ""
            # `from bn_deploy import data` names a room in the alias.
            yield from (f"{module}.{alias.name}" if module == "bn_deploy" else module for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_run_one_way(path: Path) -> None:
    room = _room(path)
    allowed = ROOMS[room] | VOCABULARY | {room}
    if room in VOCABULARY:
        allowed = {"errors", room} if room == "artifact" else {room}
    used = {name.split(".")[1] for name in _imports(path) if name.startswith("bn_deploy.")}
    assert used <= allowed, f"{_name(path)} may not import {sorted(used - allowed)}"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_foreign_library_has_one_home(path: Path) -> None:
    strayed = {
        library
        for name in _imports(path)
        if (library := name.split(".")[0]) in HOMES and not {_name(path), _room(path)} & HOMES[library]
    }
    assert not strayed, f"{_name(path)} imports {sorted(strayed)}, which belong elsewhere"


def test_every_room_has_a_row_and_every_row_a_room() -> None:
    assert {_room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize(
    ("call", "homes"),
    [
        ("print", {"cli/__init__.py", "cli/console.py"}),
        ("eval", set()),
        ("exec", set()),
        ("sys.exit", {"__main__.py"}),
        ("time.perf_counter", set()),
        ("hashlib.sha256", {"artifact.py"}),
        ("pickle.load", set()),
        ("torch.load", set()),
    ],
)
def test_some_things_are_done_in_one_place(call: str, homes: set[str]) -> None:
    found = {
        _name(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == call
    }
    assert found <= homes, f"{call}() is called in {sorted(found - homes)}"


def _modules() -> list[str]:
    names = (_name(path).removesuffix(".py").replace("/", ".") for path in FILES)
    return sorted(f"bn_deploy.{name}".removesuffix(".__init__") for name in names if name != "__main__")


def test_every_module_imports_with_warnings_as_errors() -> None:
    # One interpreter for all, each module from scratch: a cycle shows whichever end is imported first.
    program = f"""
import importlib, sys
for name in {_modules()!r}:
    for loaded in [m for m in sys.modules if m.split('.')[0] == 'bn_deploy']:
        del sys.modules[loaded]
    importlib.import_module(name)
"""
    # torch itself warns while it is imported on some Pythons; ours start where it is done.
    done = subprocess.run(
        [sys.executable, "-c", f"import torch, warnings; warnings.simplefilter('error')\n{program}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_help_loads_no_framework() -> None:
    program = """
import sys
from bn_deploy.cli import main
code = main(["--help"])
frameworks = {'torch', 'onnxruntime', 'tensorrt', 'tensorrt_rtx', 'onnx', 'numpy'}
heavy = sorted({m.split('.')[0] for m in sys.modules} & frameworks)
sys.exit(f"loaded {heavy}" if heavy else code)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands:" in done.stdout


def test_files_stay_readable() -> None:
    long = {_name(path): n for path in FILES if (n := len(path.read_text("utf-8").splitlines())) > 300}
    assert not long


def test_the_root_of_a_variance_is_taken_in_two_places_only() -> None:
    # The formula of batch norm has one home for folding, and the layer's own forward for running.
    found = {
        _name(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sqrt"
        and any(isinstance(inner, ast.Attribute) and inner.attr == "eps" for inner in ast.walk(node))
    }
    assert found == {"batchnorm/params.py", "batchnorm/custom.py"}
