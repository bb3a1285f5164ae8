"""A network of one convolution and whatever follows, and how it is written to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from bn_deploy.exporting.onnx_file import OnnxFile, export
from bn_deploy.spec import TensorSpec

IMAGE = (TensorSpec("x", (None, 3, 8, 8), "float32"),)
RESULT = (TensorSpec("y", (None, 3, 8, 8), "float32"),)


def small(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 3, 1), *layers).eval()


def write(network: nn.Module, path: Path, **changes: Any) -> OnnxFile:
    return export(network, path, **{"inputs": IMAGE, "outputs": RESULT, "metadata": {}, **changes})
