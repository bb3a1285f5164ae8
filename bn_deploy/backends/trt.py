"""Runs a TensorRT plan.

Everything that can be known without TensorRT is checked before it is touched: the driver, because a Runtime
without one ends the process instead of raising; and the side-car, because a foreign plan is refused with a
message that explains nothing. A plan may carry host code; loading such code is never enabled.
"""

from __future__ import annotations

import math
from pathlib import Path
from types import TracebackType

import numpy as np

from bn_deploy.backends.base import Array, Feeds, check_feeds
from bn_deploy.backends.device_memory import Buffer, DeviceMemory, open_memory
from bn_deploy.engine import api, driver, messages, precision, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import Precision, TensorSpec


def why_not() -> str | None:
    """None if plans can run here, else the reason: no TensorRT, or no GPU."""
    if (reason := api.why_not()) is not None:
        return reason
    if (reason := driver.why_no_gpu()) is not None:
        return f"TensorRT runs only on a GPU: {reason}"
    return None


def open_runner(source: Path, *, threads: int) -> TrtRunner:  # noqa: ARG001 - the GPU computes
    """A runner for the plan at `source`.

    Raises:
        NotAvailable: there is no TensorRT or no GPU here, or the plan was built for another machine.
        InputError: the plan or its side-car is missing or damaged.
        ModelError: TensorRT does not load the plan, or it computes in another precision than its side-car
            says.
    """
    if (reason := why_not()) is not None:
        raise NotAvailable(reason)
    gpu = driver.gpu()
    known, plan = sidecar.read_plan(source)
    trt = api.find(known.tensorrt)
    if (reason := sidecar.mismatch(known, trt, gpu)) is not None:
        raise NotAvailable(f"{source} {reason}")
    memory = open_memory()
    try:
        return TrtRunner(source, plan, known, trt=trt, memory=memory, device=str(gpu))
    except BaseException:
        memory.close()
        raise


class TrtRunner:
    """A Runner over a TensorRT engine; see bn_deploy.backends.base.Runner.

    Buffers grow to the largest batch seen and are then kept: only a change of the batch touches more than
    the input's bytes.

    Attributes:
        backend: "trt".
        inputs: what it takes, read from the engine.
        outputs: what it gives, read from the engine.
        device: the GPU.
        precision: the number format it computes in, read from the engine.
        provider: which TensorRT, and its version.
    """

    backend = "trt"

    def __init__(
        self, source: Path, plan: bytes, known: Sidecar, *, trt: TensorRT, memory: DeviceMemory, device: str
    ) -> None:
        self.device = device
        self.provider = str(trt)
        self._source = source
        self._trt = trt
        self._memory = memory
        self._rows: int | None = None
        self._buffers: dict[str, Buffer] = {}
        with trt.listen():
            self._runtime = trt.module.Runtime(trt.logger)
            if (
                trt.said.errors()
            ):  # the object may be a null inside, on which any further call ends the process
                raise NotAvailable(f"{trt} cannot start on {device}: {messages.summary(trt.said.errors())}")
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self._error("TensorRT cannot load it")
            self.inputs = self._specs("INPUT")
            self.outputs = self._specs("OUTPUT")
            self.precision = self._read_precision(known)
            self._smallest, self._largest = self._batch_limits()
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise self._error("TensorRT cannot prepare it to run")
            # DETAILED plans would mark every layer for a profiler, on the host, in each inference.
            self._context.nvtx_verbosity = trt.module.ProfilingVerbosity.NONE

    def load(self, feeds: Feeds) -> None:
        """See Runner.

        Raises:
            InputError: a name, a type or a shape is not what `inputs` says, or the batch is outside the
                range that the engine was built for.
            ModelError: TensorRT refuses the shapes.
            NotAvailable: the GPU has too little memory.
        """
        rows = check_feeds(self.inputs, feeds)
        if not self._smallest <= rows <= self._largest:
            raise InputError(
                f"a batch of {rows} is outside {self._smallest} to {self._largest}, the range that "
                f"{self._source} was built for; build it with another --batch"
            )
        self._memory.synchronize()  # the buffers may still be in use by what was started before
        if rows != self._rows:
            self._bind(rows)
        for spec in self.inputs:
            self._memory.copy_from_host(self._buffers[spec.name], feeds[spec.name])

    def enqueue(self) -> None:
        """See Runner.

        Raises:
            InputError: nothing was loaded.
            ModelError: TensorRT does not run the network.
        """
        if self._rows is None:
            raise InputError(f"{self._source} cannot run before its inputs are loaded")
        if not self._context.execute_async_v3(self._memory.stream):
            raise self._error("TensorRT does not run it")

    def synchronize(self) -> None:
        """See Runner.

        Raises:
            NotAvailable: the GPU reported an error.
        """
        self._memory.synchronize()

    def fetch(self) -> dict[str, Array]:
        """See Runner.

        Raises:
            InputError: nothing was loaded.
            NotAvailable: the GPU reported an error.
        """
        if self._rows is None:
            raise InputError(f"{self._source} has no outputs before its inputs are loaded")
        arrays = {}
        for spec in self.outputs:
            array = np.empty(tuple(self._context.get_tensor_shape(spec.name)), dtype=spec.dtype)
            self._memory.copy_to_host(self._buffers[spec.name], array)
            arrays[spec.name] = array
        return arrays

    def __enter__(self) -> TrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._rows = None
        try:
            self._memory.synchronize()
        finally:
            # TensorRT's objects first, each before what it was made from; then what they point to.
            del self._context, self._engine, self._runtime
            self._buffers.clear()
            self._memory.close()

    def _error(self, what: str) -> ModelError:
        said = messages.summary(self._trt.said.errors() or self._trt.said.warnings())
        return ModelError(f"{self._source}: {what}: {said or 'it gave no reason'}")

    def _specs(self, mode: str) -> tuple[TensorSpec, ...]:
        """The engine's tensors of one TensorIOMode."""
        engine, module = self._engine, self._trt.module
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        specs = []
        for name in names:
            if engine.get_tensor_mode(name).name != mode:
                continue
            if engine.get_tensor_location(name) != module.TensorLocation.DEVICE:
                raise ModelError(
                    f"{self._source}: tensor {name} is not computed on the GPU, but holds a shape"
                )
            shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
            specs.append(TensorSpec(name, shape, self._trt.numpy_type(engine.get_tensor_dtype(name), name)))
        return tuple(specs)

    def _read_precision(self, known: Sidecar) -> Precision:
        """The precision that the engine computes in, which must be the side-car's.

        Where the inspector does not tell it, the side-car's word, read back from the network, holds if the
        builder had no freedom: with strong types, or in fp32.
        """
        found = precision.of_engine(self._engine, self._trt.module)
        if found is None and (known.typed or known.precision is Precision.FP32):
            return known.precision
        if found is not known.precision:
            told = "it does not tell its precision" if found is None else f"it computes in {found.value}"
            raise ModelError(f"{self._source}: {told}, and was built as {known.precision.value}")
        return found

    def _batch_limits(self) -> tuple[int, int]:
        """The smallest and the largest batch that profile 0 accepts."""
        smallest, largest = 1, None
        for spec in self.inputs:
            if None in spec.shape:
                low, _, high = self._engine.get_tensor_profile_shape(spec.name, 0)
                axis = spec.shape.index(None)
                smallest = max(smallest, low[axis])
                largest = high[axis] if largest is None else min(largest, high[axis])
        return smallest, 1 if largest is None else largest  # check_feeds counts a static network as one row

    def _bind(self, rows: int) -> None:
        """Gives the context the shapes of `rows` rows, and every tensor an address."""
        self._rows = None  # a failure on the way leaves nothing that could be run
        context = self._context
        with self._trt.listen():
            for spec in self.inputs:
                if not context.set_input_shape(spec.name, spec.bind(rows)):
                    raise self._error(f"TensorRT refuses the shape {spec.bind(rows)} of input {spec.name}")
            if unknown := context.infer_shapes():
                raise self._error(f"TensorRT cannot tell the shape of {', '.join(unknown)}")
            for spec in (*self.inputs, *self.outputs):
                shape = tuple(context.get_tensor_shape(spec.name))
                if min(shape, default=1) < 1:
                    raise self._error(f"tensor {spec.name} has no size before it is computed")
                nbytes = math.prod(shape) * np.dtype(spec.dtype).itemsize
                if not context.set_tensor_address(spec.name, self._reserve(spec.name, nbytes).ptr):
                    raise self._error(f"TensorRT refuses the memory of tensor {spec.name}")
        self._rows = rows

    def _reserve(self, name: str, nbytes: int) -> Buffer:
        """The buffer of a tensor, at least `nbytes` long."""
        held = self._buffers.get(name)
        if held is not None and held.nbytes >= nbytes:
            return held
        if held is not None:
            del self._buffers[name]
            self._memory.free(held)
        self._buffers[name] = self._memory.allocate(nbytes)
        return self._buffers[name]
