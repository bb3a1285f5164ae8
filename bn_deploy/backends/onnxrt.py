"""Runs an ONNX file in ONNX Runtime: on the CPU, or on the GPU by its CUDA or its TensorRT provider."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx

from bn_deploy.backends.base import Array, Facts, Feeds, check_feeds
from bn_deploy.backends.onnx_weights import must_be_fp32, weights_precision
from bn_deploy.backends.onnxrt_memory import CudaMemory, HostMemory, Memory
from bn_deploy.engine import driver
from bn_deploy.errors import InputError, ModelError, NotAvailable, first_line
from bn_deploy.spec import Precision, TensorSpec

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

_NAMES = {CPU: "ort", CUDA: "ort-cuda", TENSORRT: "ort-trt"}
# TF32 is CUDA's default; asked for fp32, the file's, it is off. TensorRT's precisions are off by default.
_OPTIONS = {CPU: {}, CUDA: {"use_tf32": "0"}, TENSORRT: {}}
_NARROW = {CPU: (), CUDA: ("use_tf32",), TENSORRT: ("trt_fp16_enable", "trt_int8_enable")}  # must be off
_SPINNING = "session.intra_op.allow_spinning"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}


def why_not(provider: str = CPU) -> str | None:
    """Why ONNX Runtime cannot be used here with that provider, or None."""
    try:
        import onnxruntime as ort
    except ModuleNotFoundError:
        extra = "'bn-deploy[cpu]' (or 'bn-deploy[gpu]')" if provider == CPU else "'bn-deploy[gpu]'"
        return f"onnxruntime is not installed; pip install {extra}"
    except ImportError as error:
        return f"onnxruntime is installed but does not load: {first_line(error)}"
    if provider not in ort.get_available_providers():
        return f"this onnxruntime has no {provider}; pip install 'bn-deploy[gpu]' in place of onnxruntime"
    if provider != CPU and (reason := driver.why_no_gpu()) is not None:
        return f"{provider} runs only on a GPU: {reason}"
    return None


def open_runner(source: Path, *, threads: int, spinning: bool = True, provider: str = CPU) -> OrtRunner:
    """A runner for the ONNX file `source`; see Backend.open."""
    if (reason := why_not(provider)) is not None:
        raise NotAvailable(reason)
    return OrtRunner(source, threads=threads, spinning=spinning, provider=provider)


class OrtRunner:
    """One ONNX Runtime session, its inputs and outputs bound once per batch size.

    Args:
        path: the ONNX file.
        threads: threads inside an operator; 1 also switches the thread pool off.
        optimize: let the session rewrite the graph when loading, as far as it can, which is its default.
        spinning: idle threads of the pool busy-wait, which is its default, or sleep.
        provider: ONNX Runtime's name of the component that is to compute every node.

    Raises:
        ModelError: the session cannot be made.
        NotAvailable: the session runs on another provider, or would compute in another precision than the
            file's.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        optimize: bool = True,
        spinning: bool = True,
        provider: str = CPU,
    ) -> None:
        import onnxruntime as ort

        self.backend = _NAMES[provider]
        self._path, self._provider = path, provider
        self._asked = {"threads": threads, "optimize": optimize, "spinning": spinning}
        self._session: Any = self._open()
        self.provider: str = self._session.get_providers()[0]
        if self.provider != provider:
            raise NotAvailable(f"asked for {provider}, ONNX Runtime took {self.provider}")
        self.inputs = tuple(map(_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_spec, self._session.get_outputs()))
        self.device = "cpu" if provider == CPU else str(driver.gpu())
        self.facts = self._read_facts()
        self.precision = self._read_precision()
        self._binding: Any = self._session.io_binding()
        self._memory: Memory = (
            HostMemory(self._binding) if provider == CPU else CudaMemory(self._binding, ort.OrtValue)
        )
        self._batch: int | None = None
        self._computed = False

    def __enter__(self) -> OrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._memory
        self._binding = self._session = self._batch = None
        self._computed = False

    def load(self, feeds: Feeds) -> None:
        """See Runner."""
        if self._batch is not None and self._memory.reload(feeds):
            self._computed = False
            return
        batch = check_feeds(self.inputs, feeds)
        self._computed = False
        if batch != self._batch:
            self._memory.bind(self.outputs, batch)
            self._batch = batch
        self._memory.load(feeds)

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
        return self._memory.fetch()

    def loaded_census(self) -> dict[str, int] | None:
        """How often each operator occurs in the graph that the session runs; see base.loaded_census.

        A second session writes it down while it loads. None where a provider made one node of several, which
        no file can hold.
        """
        if self._session is None:
            raise InputError("the network was left")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "loaded.onnx")
            try:
                self._open(write=file)
            except ModelError:
                return None
            loaded = onnx.load(file, load_external_data=False)
        return dict(Counter(node.op_type for node in loaded.graph.node))

    def _open(self, write: Path | None = None) -> Any:
        """A session; the graph that it made of the file goes to `write`."""
        import onnxruntime as ort

        levels = ort.GraphOptimizationLevel
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._asked["threads"]
        options.inter_op_num_threads = 1
        options.add_session_config_entry(_SPINNING, str(int(self._asked["spinning"])))
        options.graph_optimization_level = (
            levels.ORT_ENABLE_ALL if self._asked["optimize"] else levels.ORT_DISABLE_ALL
        )
        options.log_severity_level = 3  # errors only; they come back as exceptions
        if self._provider != CPU:
            options.log_severity_level = 4  # that a provider does not load is told by what the session took
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if write is not None:
            options.optimized_model_filepath = str(write)
        try:
            return ort.InferenceSession(
                str(self._path),
                options,
                providers=[(self._provider, _OPTIONS[self._provider])],
                enable_fallback=0,  # it would print, and take the CPU
            )
        except Exception as error:  # the runtime's own exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot load {self._path}: {first_line(error)}") from error

    def _read_facts(self) -> Facts:
        """What the session says of its options."""
        if self._provider == CPU:
            options = self._session.get_session_options()
            threads = options.intra_op_num_threads
            spinning = options.get_session_config_entry(_SPINNING) == "1"
            return Facts(threads=threads, spinning=spinning if threads > 1 else None)
        options = self._session.get_provider_options()[self._provider]
        if self._provider == CUDA:
            return Facts(
                cuda_graph=options.get("enable_cuda_graph") == "1", tf32=False
            )  # see _read_precision
        # The provider has no option for TF32: TensorRT's own default is on, and only this turns it off.
        tf32 = os.environ.get("NVIDIA_TF32_OVERRIDE") != "0"
        return Facts(cuda_graph=options.get("trt_cuda_graph_enable") == "1", tf32=tf32)

    def _read_precision(self) -> Precision:
        """The precision that the session computes in.

        The CPU has few kernels for narrow types: ONNX Runtime casts to fp32 around the rest and says nothing.
        TensorRT computes in fp32 unless it is told that it may use another.
        """
        options = self._session.get_provider_options()[self._provider]
        for narrow in _NARROW[self._provider]:
            if options.get(narrow) != "0":
                raise NotAvailable(
                    f"ONNX Runtime would not compute in the network's precision: {self._provider} says "
                    f"{narrow}={options.get(narrow)}"
                )
        if self._provider == CUDA:
            return weights_precision(self._path)
        where = "on the CPU" if self._provider == CPU else "in TensorRT"
        return must_be_fp32(self._path, f"ONNX Runtime would silently compute in fp32 {where}")


def _spec(node: Any) -> TensorSpec:
    """ONNX Runtime's description of an input or output."""
    if node.type not in _DTYPES:
        raise ModelError(f"{node.name} is a {node.type}, which no runner here feeds")
    return TensorSpec(
        node.name, tuple(s if isinstance(s, int) else None for s in node.shape), _DTYPES[node.type]
    )
