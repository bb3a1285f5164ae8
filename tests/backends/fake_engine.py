"""A TensorRT runtime and GPU memory that live on the host.

The addresses are real ones, so the fake context computes on the very bytes that the runner put there:
logits (N, 2) = the sum of each row of image (N, 3), and its negative.
"""

from __future__ import annotations

import ctypes
import json
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_deploy.backends.device_memory import Buffer
from bn_deploy.engine.api import TensorRT
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
    output_size: int = 2
    runtime_error: str = ""
    runs_on: list[int] = field(default_factory=list)
    shapes_set: list[tuple[int, ...]] = field(default_factory=list)
    context: Any = None


class HostMemory:
    """DeviceMemory on the host; `did` is what was asked of it, in order."""

    stream = 77

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.did: list[str] = []
        self.closed = False
        self._live: dict[int, NDArray[np.uint8]] = {}

    def allocate(self, nbytes: int) -> Buffer:
        device = np.zeros(nbytes, np.uint8)
        self.sizes.append(nbytes)
        self._live[device.ctypes.data] = device
        return Buffer(device.ctypes.data, np.zeros(nbytes, np.uint8), device)

    def free(self, buffer: Buffer) -> None:
        del self._live[buffer.ptr]

    def copy_from_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        self.did.append("copy in")
        data = np.frombuffer(array.tobytes(), np.uint8)
        self._live[buffer.ptr][: data.size] = data

    def copy_to_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        array[...] = self._live[buffer.ptr][: array.nbytes].view(array.dtype).reshape(array.shape)

    def synchronize(self) -> None:
        assert not self.closed
        self.did.append("wait")

    def close(self) -> None:
        assert not self.closed
        self.closed = True


def make(answers: Engine) -> TensorRT:
    """A TensorRT 8.5 that can only run, and runs `answers`."""
    names = NAMES[VERSION]
    members = {name: IntEnum(name, value) for name, value in names.items() if isinstance(value, dict)}
    module = SimpleNamespace(__version__=VERSION, **members)
    wide = {"image": 3, "logits": answers.output_size}

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

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self._rows, wide[name])

        def set_tensor_address(self, name: str, address: int) -> bool:
            self._addresses[name] = address
            return answers.takes_address

        def execute_async_v3(self, stream_handle: int) -> bool:
            answers.runs_on.append(stream_handle)
            image, logits = (self._view(name) for name in ("image", "logits"))
            logits[:, 0] = image.sum(axis=1)
            logits[:, 1] = -logits[:, 0]
            return answers.runs

        def _view(self, name: str) -> NDArray[np.float32]:
            rows, columns = self.get_tensor_shape(name)
            memory = (ctypes.c_float * (rows * columns)).from_address(self._addresses[name])
            return np.ctypeslib.as_array(memory).reshape(rows, columns)

    class ICudaEngine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return ("image", "logits")[index]

        def get_tensor_mode(self, name: str) -> Any:
            return module.TensorIOMode["INPUT" if name == "image" else "OUTPUT"]

        def get_tensor_location(self, name: str) -> Any:
            return module.TensorLocation[answers.location]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (answers.batch, wide[name])

        def get_tensor_dtype(self, name: str) -> Any:
            return module.DataType[answers.dtype]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            assert (name, profile_index) == ("image", 0)
            return [(2, 3), (4, 3), (8, 3)]

        def create_engine_inspector(self) -> Any:
            return module.EngineInspector()

        def create_execution_context(self) -> Any:
            answers.context = module.IExecutionContext() if answers.prepares else None
            return answers.context

    class Runtime:
        def __init__(self, logger: Any) -> None:
            if answers.runtime_error:
                logger.log(SimpleNamespace(name="ERROR"), answers.runtime_error)
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            assert plan == b"a plan"
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
