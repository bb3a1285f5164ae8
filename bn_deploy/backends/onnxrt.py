"""Runs an ONNX file in ONNX Runtime on the CPU, with its buffers bound once per batch size."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx

from bn_deploy.backends.base import Array, Feeds, check_feeds
from bn_deploy.errors import InputError, ModelError, NotAvailable, first_line
from bn_deploy.spec import Precision, TensorSpec

_PROVIDER = "CPUExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}


def why_not() -> str | None:
    """Why ONNX Runtime cannot be used here, or None."""
    try:
        import onnxruntime  # noqa: F401 - whether it can be imported is the question
    except ModuleNotFoundError:
        return "onnxruntime is not installed; pip install 'bn-deploy[cpu]' (or 'bn-deploy[gpu]')"
    except ImportError as error:
        return f"onnxruntime is installed but does not load: {first_line(error)}"
    return None


def open_runner(source: Path, *, threads: int) -> OrtRunner:
    """A runner for the ONNX file `source`; see Backend.open."""
    if (reason := why_not()) is not None:
        raise NotAvailable(reason)
    return OrtRunner(source, threads=threads)


class OrtRunner:
    """One ONNX Runtime session.

    Inputs are bound where they lie and outputs to arrays that are made once per batch size, so that a call
    neither allocates nor copies.

    Args:
        path: the ONNX file.
        threads: threads inside an operator; 1 also switches the thread pool off.
        optimize: let the session rewrite the graph when loading, which is its default.

    Raises:
        ModelError: the session cannot be made.
        NotAvailable: the session runs on another provider than the CPU's, or would compute in another
            precision than the file's.
    """

    backend = "ort"

    def __init__(self, path: Path, *, threads: int, optimize: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only; they come back as exceptions
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=[_PROVIDER])
        except Exception as error:  # the runtime's own exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load {path}: {first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        if self.provider != _PROVIDER:
            raise NotAvailable(f"asked for {_PROVIDER}, ONNX Runtime took {self.provider}")
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        self.device = "cpu"
        self.precision = _precision(path)
        self._binding: Any = self._session.io_binding()
        self._bound: dict[str, Array] = {}
        self._results: dict[str, Array] = {}
        self._batch: int | None = None
        self._computed = False

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._binding = self._session = self._batch = None
        self._computed = False

    def load(self, feeds: Feeds) -> None:
        """See Runner."""
        batch = check_feeds(self.inputs, feeds)
        self._computed = False
        # The binding keeps only a pointer, so each array must be contiguous and must stay alive.
        self._bound = {spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs}
        for name, array in self._bound.items():
            self._binding.bind_cpu_input(name, array)
        if batch != self._batch:
            self._results = {s.name: np.empty(s.bind(batch), s.dtype) for s in self.outputs}
            for spec in self.outputs:
                array = self._results[spec.name]
                self._binding.bind_output(spec.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            self._batch = batch

    def enqueue(self) -> None:
        """See Runner. Blocks until the outputs are there."""
        if self._batch is None:
            raise InputError("the network cannot run before its inputs are loaded")
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the runtime's own exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot run the network: {first_line(error)}") from error
        self._computed = True

    def synchronize(self) -> None:
        """See Runner. Nothing runs after `enqueue` returns."""

    def fetch(self) -> dict[str, Array]:
        """See Runner."""
        if not self._computed:
            raise InputError("the network has no outputs before it has run")
        return {name: array.copy() for name, array in self._results.items()}


def _precision(path: Path) -> Precision:
    """The precision that the CPU provider computes in, which is fp32.

    The provider has few kernels for narrower types: it casts to fp32 around the rest and says nothing.

    Raises:
        NotAvailable: the file's weights ask for another one.
    """
    narrow = {onnx.TensorProto.FLOAT16: Precision.FP16, onnx.TensorProto.BFLOAT16: Precision.BF16}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_type in narrow:
            raise NotAvailable(
                f"{path} has {narrow[tensor.data_type].value} weights, and ONNX Runtime would silently "
                "compute in fp32 on the CPU; export it in fp32"
            )
    return Precision.FP32


def _spec(node: Any) -> TensorSpec:
    """ONNX Runtime's description of an input or output."""
    if node.type not in _DTYPES:
        raise ModelError(f"{node.name} is a {node.type}, which no runner here feeds")
    return TensorSpec(
        node.name, tuple(s if isinstance(s, int) else None for s in node.shape), _DTYPES[node.type]
    )
