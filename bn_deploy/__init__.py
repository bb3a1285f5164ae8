"""bn-deploy: a network with batch norm in, a BN-free ONNX file and TensorRT engine out, with evidence.

The house, bottom to top; imports run upwards only:

    errors  spec  artifact                      nouns: what everything is called
    batchnorm  data  model                      what comes in
    train  fold  export  engine  backends       verbs: each takes nouns and returns nouns
    verify  bench  report                       evidence
    run_folder  pipeline  cli                   the order of things

The names below are the Python API; each is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bn_deploy.batchnorm.convert import convert
    from bn_deploy.engine.build import build
    from bn_deploy.export.onnx_file import export
    from bn_deploy.fold.modules import fold
    from bn_deploy.train.checkpoint import load_checkpoint
    from bn_deploy.train.statistics import reestimate
    from bn_deploy.version import version

_HOMES = {
    "build": "bn_deploy.engine.build",
    "convert": "bn_deploy.batchnorm.convert",
    "export": "bn_deploy.export.onnx_file",
    "fold": "bn_deploy.fold.modules",
    "load_checkpoint": "bn_deploy.train.checkpoint",
    "reestimate": "bn_deploy.train.statistics",
    "version": "bn_deploy.version",
}

__all__ = ["build", "convert", "export", "fold", "load_checkpoint", "reestimate", "version"]


def __getattr__(name: str) -> Any:
    """Loads a public name from its home (PEP 562), so that importing the package loads no framework."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
