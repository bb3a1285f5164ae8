"""bn-deploy: a network with batch norm in, a BN-free ONNX file and TensorRT engine out, with evidence.

The house, bottom to top; imports run upwards only:

    errors  spec  artifact                          nouns: what everything is called
    batchnorm  data  model  onnxfile                what comes in
    train  folding  exporting  engine  backends     verbs: each takes nouns and returns nouns
    verify  bench  report                           evidence
    run_folder  pipeline  cli                       the order of things

The names below are the Python API; each is loaded when it is first used. No room has the name of one of them,
or importing the room would put it in the function's place.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_deploy.batchnorm.convert import convert
    from bn_deploy.engine.build import BuildOptions, build
    from bn_deploy.errors import BnDeployError
    from bn_deploy.exporting.onnx_file import export
    from bn_deploy.folding.graph.onnx_file import fold_onnx
    from bn_deploy.folding.modules.driver import fold
    from bn_deploy.spec import BatchRange, TensorSpec
    from bn_deploy.train.checkpoint import load_checkpoint
    from bn_deploy.train.statistics import reestimate

_HOMES = {
    "BatchRange": "bn_deploy.spec",
    "BnDeployError": "bn_deploy.errors",
    "BuildOptions": "bn_deploy.engine.build",
    "TensorSpec": "bn_deploy.spec",
    "build": "bn_deploy.engine.build",
    "convert": "bn_deploy.batchnorm.convert",
    "export": "bn_deploy.exporting.onnx_file",
    "fold": "bn_deploy.folding.modules.driver",
    "fold_onnx": "bn_deploy.folding.graph.onnx_file",
    "load_checkpoint": "bn_deploy.train.checkpoint",
    "reestimate": "bn_deploy.train.statistics",
}

__all__ = [
    "BatchRange",
    "BnDeployError",
    "BuildOptions",
    "TensorSpec",
    "build",
    "convert",
    "export",
    "fold",
    "fold_onnx",
    "load_checkpoint",
    "reestimate",
]


def __getattr__(name: str) -> Any:
    """Loads a public name from its home (PEP 562), so that importing the package loads no framework."""
    if name == "__version__":
        from bn_deploy.version import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
