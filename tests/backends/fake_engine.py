"""A TensorRT runtime and GPU memory that live on the host.

The addresses are real ones, so the fake context computes on the very bytes that the runner put there:
logits (N, 2) = the sum of each row of image (N, 3), and its negative; wider rows and more logits, which are
0, where a test wants them.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_deploy.backends.device_memory import Buffer
from bn_deploy.engine.api import TensorRT
from bn_deploy.errors import NotAvailable
from tests.engine.fake_trt import NAMES, limited

VERSION = "8.5.3.1"  # the oldest: a runner that needs no more runs with all


@dataclass
class Engine:
    """What the fake runtime is to answer, and what it was asked."""

    batch: int = -1
    dtype: str = "FLOAT"
    location: str = "DEVICE"
    layer_type: str = "Float"
    loads: bool = True
    prepares: bool = True
    runs: bool = True
    takes_shape: bool = True
    takes_address: bool = True
    unknown: list[str] = field(default_factory=list)
    row: tuple[int, ...] = (3,)
    output_size: int = 2
    runtime_error: str = ""
    profiles: tuple[tuple[int, int, int], ...] = ((2, 4, 8),)
    most_contexts: int = 99
    capturable: bool = True
    profiles_set: list[int] = field(default_factory=list)
    host_code_allowed: bool | None = None
    lean_runtime: str = ""
    contexts: int = 0
    runs_on: list[int] = field(default_factory=list)
    shapes_set: list[tuple[int, ...]] = field(default_factory=list)
    context: Any = None


class HostGraph:
    """Graph on the host: starts the recorded work again, which costs no enqueue of TensorRT's."""

    def __init__(self, start: Callable[[], bool]) -> None:
        self.start = start
        self.launches = 0
        self.closed = False

    def launch(self) -> None:
        assert not self.closed
        self.launches += 1
        self.start()

    def close(self) -> None:
        self.closed = True


class HostMemory:
    """DeviceMemory on the host; `did` is what was asked of it, in order."""

    stream = 77

    def __init__(self, refuses_graphs: str = "") -> None:
        self.sizes: list[int] = []
        self.did: list[str] = []
        self.closed = False
        self.graphs: list[HostGraph] = []
        self.live: dict[int, NDArray[np.uint8]] = {}
        self._refuses = refuses_graphs

    def allocate(self, nbytes: int) -> Buffer:
        device = np.zeros(nbytes, np.uint8)
        self.sizes.append(nbytes)
        self.live[device.ctypes.data] = device
        return Buffer(device.ctypes.data, np.zeros(nbytes, np.uint8), device)

    def free(self, buffer: Buffer) -> None:
        del self.live[buffer.ptr]

    def copy_to_device(self, buffer: Buffer) -> None:
        self.did.append("copy in")
        self.live[buffer.ptr][:] = buffer.staging

    def copy_to_host(self, buffer: Buffer) -> None:
        self.did.append("copy out")
        buffer.staging[:] = self.live[buffer.ptr]

    def synchronize(self) -> None:
        assert not self.closed
        self.did.append("wait")

    def record(self, start: Callable[[], bool]) -> HostGraph:
        if self._refuses:
            raise NotAvailable(self._refuses)
        self.graphs.append(HostGraph(start))
        return self.graphs[-1]

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def make(answers: Engine, version: str = VERSION) -> TensorRT:
    """A TensorRT that can only run, and runs `answers`."""
    names = NAMES[version]
    members = {name: IntEnum(name, value) for name, value in names.items() if isinstance(value, dict)}
    module = SimpleNamespace(__version__=version, **members)
    wide = {"image": answers.row, "logits": (answers.output_size,)}

    class ILogger:
        pass

    class EngineInspector:
        def get_engine_information(self, form: Any) -> str:
            assert form is module.LayerInformationFormat.JSON
            return json.dumps({"Layers": [{"Outputs": [{"Format/Datatype": answers.layer_type}]}]})

    class IExecutionContext:
        nvtx_verbosity: Any = None

        def __init__(self) -> None:
            self._rows = answers.batch
            self._addresses: dict[str, int] = {}

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            assert name == "image"
            self._rows = shape[0]
            answers.shapes_set.append(shape)
            return answers.takes_shape

        def infer_shapes(self) -> list[str]:
            return answers.unknown

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            answers.profiles_set.append(profile_index)
            return stream_handle == HostMemory.stream

        def is_stream_capturable(self, stream: int) -> bool:
            return answers.capturable

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self._rows, *wide[name])

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return answers.takes_address

        def execute_async_v3(self, stream_handle: int) -> bool:
            answers.runs_on.append(stream_handle)
            image, logits = (self._view(name) for name in ("image", "logits"))
            logits[:] = 0
            logits[:, 0] = image.sum(axis=1)
            logits[:, 1] = -logits[:, 0]
            return answers.runs

        def _view(self, name: str) -> NDArray[np.float32]:
            shape = self.get_tensor_shape(name)
            memory = (ctypes.c_float * math.prod(shape)).from_address(self._addresses[name])
            return np.ctypeslib.as_array(memory).reshape(shape[0], -1)

    class ICudaEngine:
        num_io_tensors = 2
        num_optimization_profiles = len(answers.profiles)

        def get_tensor_name(self, index: int) -> str:
            return ("image", "logits")[index]

        def get_tensor_mode(self, name: str) -> Any:
            return module.TensorIOMode["INPUT" if name == "image" else "OUTPUT"]

        def get_tensor_location(self, name: str) -> Any:
            return module.TensorLocation[answers.location]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (answers.batch, *wide[name])

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[answers.dtype]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert name == "image"
            return [(size, *answers.row) for size in answers.profiles[profile_index]]

        def create_engine_inspector(self) -> Any:
            return module.EngineInspector()

        def create_execution_context(self) -> Any:
            answers.contexts += 1
            fine = answers.prepares and answers.contexts <= answers.most_contexts
            answers.context = module.IExecutionContext() if fine else None
            return answers.context

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            if answers.runtime_error:
                logger.log(SimpleNamespace(name="ERROR"), answers.runtime_error)
            self._logger = logger

        def load_runtime(self, path: str) -> Any:
            answers.lean_runtime = path
            return None if "broken" in path else self

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            assert plan == b"a plan"
            answers.host_code_allowed = getattr(self, "engine_host_code_allowed", None)
            if answers.loads:
                return module.ICudaEngine()
            self._logger.log(
                SimpleNamespace(name="ERROR"), "Error Code 1: Serialization (Magic tag does not match)"
            )
            return None

    for cls in (EngineInspector, IExecutionContext, ICudaEngine, Runtime):
        setattr(module, cls.__name__, limited(cls, names[cls.__name__]))
    module.ILogger = ILogger
    return TensorRT("tensorrt", module)
