"""What an ONNX file's weights say about the precision that its computation asks for."""

from __future__ import annotations

from pathlib import Path

import onnx

from bn_deploy.errors import NotAvailable
from bn_deploy.spec import Precision

_NARROW = {onnx.TensorProto.FLOAT16: Precision.FP16, onnx.TensorProto.BFLOAT16: Precision.BF16}


def weights_precision(path: Path) -> Precision:
    """The narrow floating-point type that the weights of the ONNX file at `path` have, else fp32."""
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_type in _NARROW:
            return _NARROW[tensor.data_type]
    return Precision.FP32


def must_be_fp32(path: Path, silently: str) -> Precision:
    """fp32, for a runtime that would compute in it whatever the weights are.

    Args:
        path: the ONNX file.
        silently: what it would do without a word, such as "OpenVINO would compute in fp32".

    Raises:
        NotAvailable: the file's weights ask for another precision.
    """
    found = weights_precision(path)
    if found is not Precision.FP32:
        raise NotAvailable(f"{path} has {found.value} weights, and {silently}; export it in fp32")
    return found
