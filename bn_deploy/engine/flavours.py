"""What of TensorRT may be installed: three packages, of which two build and one only runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Flavour:
    """One row of FLAVOURS.

    Attributes:
        title: what people call it.
        extra: the extra that installs it.
        runs: the flavour whose plans it runs.
        parts: what its module must have to be of use.
    """

    title: str
    extra: str
    runs: str
    parts: tuple[str, ...] = ("__version__", "Builder", "OnnxParser", "Runtime")


FLAVOURS: Mapping[str, Flavour] = {
    "tensorrt": Flavour("TensorRT", "gpu", "tensorrt"),
    "tensorrt_rtx": Flavour("TensorRT-RTX", "rtx", "tensorrt_rtx"),
    "tensorrt_lean": Flavour("TensorRT lean runtime", "lean", "tensorrt", ("__version__", "Runtime")),
}
"""What may be installed, by the name of its module. TensorRT first: it is the faster one, where it can work;
the one that only runs what TensorRT built last."""
