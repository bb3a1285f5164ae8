"""Runs an ONNX file in OpenVINO on the CPU, in the precision that was asked for.

Left alone, OpenVINO computes in bf16 wherever the processor has it, and says nothing.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bn_deploy.backends.base import Array, Facts, Feeds, check_feeds
from bn_deploy.backends.onnx_weights import must_be_fp32
from bn_deploy.errors import InputError, ModelError, NotAvailable, first_line
from bn_deploy.spec import Precision, TensorSpec

_HINTS = {Precision.FP32: "f32", Precision.FP16: "f16", Precision.BF16: "bf16"}
_TYPES = {
    "f32": "float32",
    "f16": "float16",
    "f64": "float64",
    "i64": "int64",
    "i32": "int32",
    "u8": "uint8",
}


def why_not() -> str | None:
    """Why OpenVINO cannot be used here, or None."""
    try:
        import openvino  # noqa: F401 - whether it can be imported is the question
    except ModuleNotFoundError:
        return "openvino is not installed; pip install 'bn-deploy[openvino]'"
    except ImportError as error:
        return f"openvino is installed but does not load: {first_line(error)}"
    return None


def open_runner(source: Path, *, threads: int, precision: Precision = Precision.FP32) -> OpenVinoRunner:
    """A runner for the ONNX file `source`; see Backend.open."""
    if (reason := why_not()) is not None:
        raise NotAvailable(reason)
    return OpenVinoRunner(source, threads=threads, precision=precision)


class OpenVinoRunner:
    """One compiled network with one request, which reads inputs where they lie and has its own outputs.

    Args:
        path: the ONNX file, with fp32 weights.
        threads: CPU threads.
        precision: the number format to compute in.

    Raises:
        ModelError: OpenVINO cannot load the file.
        NotAvailable: it computes elsewhere or in another precision than asked.
    """

    backend = "openvino"

    def __init__(self, path: Path, *, threads: int, precision: Precision = Precision.FP32) -> None:
        import openvino
        from openvino.frontend import FrontEndManager

        self._tensor = openvino.Tensor
        try:
            # Core.read_model would try one format after another on a file that is no ONNX file.
            reader = FrontEndManager().load_by_framework("onnx")
            model = reader.convert(reader.load(str(path)))
            self._network: Any = openvino.Core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "INFERENCE_NUM_THREADS": threads,
                    "NUM_STREAMS": 1,
                    "PERFORMANCE_HINT": "LATENCY",
                },
            )
        except Exception as error:  # OpenVINO's exceptions share no base class but RuntimeError's
            raise ModelError(f"OpenVINO cannot load {path}: {_reason(error)}") from error
        self.inputs = tuple(map(_spec, self._network.inputs))
        self.outputs = tuple(map(_spec, self._network.outputs))
        if not self.outputs:
            raise ModelError(f"OpenVINO cannot load {path}: it has no outputs")
        must_be_fp32(path, f"OpenVINO would compute in {precision.value}")
        self.precision = self._read_precision(precision)
        self.provider = ", ".join(self._network.get_property("EXECUTION_DEVICES"))
        if self.provider != "CPU":
            raise NotAvailable(f"asked for the CPU, OpenVINO took {self.provider}")
        self.device = "cpu"
        self.facts = Facts(threads=int(self._network.get_property("INFERENCE_NUM_THREADS")))
        self._request: Any = self._network.create_infer_request()
        self._loaded: dict[str, Array] = {}
        self._results: dict[str, Array] = {}
        self._batch: int | None = None
        self._computed = False

    def __enter__(self) -> OpenVinoRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._request = self._network = self._batch = None
        self._computed = False

    def load(self, feeds: Feeds) -> None:
        """See Runner."""
        batch = check_feeds(self.inputs, feeds)
        self._computed = False
        # OpenVINO shares only memory that it could write to.
        self._loaded = {
            spec.name: np.require(feeds[spec.name], requirements=["C", "W"]) for spec in self.inputs
        }
        self._batch, before = None, self._batch  # a failure on the way leaves nothing that could be run
        for name, array in self._loaded.items():
            self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        if batch != before:
            self._results = {spec.name: np.empty(spec.bind(batch), spec.dtype) for spec in self.outputs}
            for name, array in self._results.items():
                self._request.set_tensor(name, self._tensor(array, shared_memory=True))
        self._batch = batch

    def enqueue(self) -> None:
        """See Runner. Blocks until the outputs are there: starting and waiting takes longer."""
        if self._batch is None:
            raise InputError("the network cannot run before its inputs are loaded")
        try:
            self._request.infer()
        except Exception as error:  # OpenVINO's exceptions share no base class but RuntimeError's
            raise ModelError(f"OpenVINO cannot run the network: {_reason(error)}") from error
        self._computed = True

    def synchronize(self) -> None:
        """See Runner. Nothing runs after `enqueue` returns."""

    def fetch(self) -> dict[str, Array]:
        """See Runner."""
        if not self._computed:
            raise InputError("the network has no outputs before it has run")
        return {name: array.copy() for name, array in self._results.items()}

    def loaded_census(self) -> dict[str, int]:
        """How often each kind of layer occurs in the network as compiled; see base.loaded_census."""
        if self._network is None:
            raise InputError("the network was left")
        layers = self._network.get_runtime_model().get_ops()
        return dict(Counter(str(layer.get_rt_info()["layerType"].value) for layer in layers))

    def _read_precision(self, asked: Precision) -> Precision:
        """The precision that the network was compiled to, which must be the one asked for.

        The hint read back is what the plugin made of it: without kernels for bf16 it becomes f32.
        """
        hint = self._network.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if hint != _HINTS[asked]:
            raise NotAvailable(
                f"asked for {asked.value}, OpenVINO computes in {hint} on this CPU; ask for another precision"
            )
        return asked


def _spec(port: Any) -> TensorSpec:
    """OpenVINO's description of an input or output."""
    name, kind = port.get_any_name(), port.get_element_type().get_type_name()
    if kind not in _TYPES:
        raise ModelError(f"{name} is of type {kind}, which no runner here feeds")
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
    return TensorSpec(name, shape, _TYPES[kind])


def _reason(error: Exception) -> str:
    """The last line of OpenVINO's text: those above tell where in its source it was raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)
