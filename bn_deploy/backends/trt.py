"""Runs a TensorRT plan.

Everything that can be known without TensorRT is checked before it is touched: the driver, because a Runtime
without one ends the process instead of raising; and the side-car, because a foreign plan is refused with a
message that explains nothing. A plan may carry code for the host, which is loaded only where the caller
trusts it.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np

from bn_deploy.backends import trt_engine
from bn_deploy.backends.base import Array, Facts, Feeds, check_feeds
from bn_deploy.backends.device_memory import DeviceMemory, stage, unstage
from bn_deploy.backends.memory_choice import open_memory
from bn_deploy.backends.trt_engine import Loaded
from bn_deploy.backends.trt_shapes import Shape, Shapes
from bn_deploy.engine import api, driver, messages, portability, profiles, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import InputError, ModelError, NotAvailable


def why_not() -> str | None:
    """None if plans can run here, else the reason: no TensorRT, or no GPU."""
    if (reason := api.why_not()) is not None:
        return reason
    if (reason := driver.why_no_gpu()) is not None:
        return f"TensorRT runs only on a GPU: {reason}"
    return None


def open_runner(
    source: Path,
    *,
    threads: int,  # noqa: ARG001 - the GPU computes
    cuda_graph: bool = False,
    trust: bool = False,
    lean_runtime: Path | None = None,
) -> TrtRunner:
    """A runner for the plan at `source`.

    Args:
        source: the plan, with its side-car beside it.
        threads: means nothing here.
        cuda_graph: launch the kernels of a call as one recorded graph.
        trust: let the plan bring code for the host, which version-compatible ones do.
        lean_runtime: the library that runs a plan that was built without its own.

    Raises:
        NotAvailable: there is no TensorRT or no GPU here, or the plan was built for another machine.
        InputError: the plan, its side-car or the library is missing or damaged, or the plan brings code and
            is not trusted, or it needs a library and none was given.
        ModelError: TensorRT does not load the plan, or it computes in another precision than its side-car
            says.
    """
    if (reason := why_not()) is not None:
        raise NotAvailable(reason)
    gpu = driver.gpu()
    known, plan = sidecar.read_plan(source)
    trt = api.find(known.tensorrt)
    if (reason := portability.mismatch(known, trt, gpu)) is not None:
        raise NotAvailable(f"{source} {reason}")
    if known.carries_host_code and not trust:
        raise InputError(
            f"{source} carries code that would run here with your rights (a lean runtime); if you trust "
            "where it comes from, say --trust"
        )
    if lean_runtime is None and known.needs_lean_runtime and known.tensorrt_version != trt.version:
        raise InputError(
            f"{source} was built without the lean runtime that {trt} needs to run it; give the library of "
            f"{known.tensorrt} {known.tensorrt_version} with --lean-runtime"
        )
    if lean_runtime is not None:
        if not trt.loads_lean_runtimes:
            raise InputError(f"{trt} cannot load a lean runtime")
        if not lean_runtime.is_file():  # the loader would look for it in other folders
            raise InputError(f"there is no lean runtime {lean_runtime}")
        lean_runtime = lean_runtime.absolute()
    memory = open_memory()
    try:
        with trt.listen():
            loaded = trt_engine.load(
                source, plan, known, trt=trt, device=str(gpu), trust=trust, lean_runtime=lean_runtime
            )
            return TrtRunner(source, known, loaded, trt=trt, memory=memory, cuda_graph=cuda_graph)
    except BaseException:
        memory.close()
        raise


class TrtRunner:
    """A Runner over a TensorRT engine; see bn_deploy.backends.base.Runner.

    `load` and `enqueue` only queue work, on a stream of their own: `load` and `synchronize` time the way to
    the GPU, `enqueue` and `synchronize` the computation, `fetch` the way back.

    Attributes:
        backend: "trt".
        inputs: what it takes, read from the engine.
        outputs: what it gives, read from the engine.
        device: the GPU.
        precision: the number format it computes in, read from the engine.
        provider: which TensorRT, and its version.
        profiles: the batch sizes it accepts, read from the engine.
    """

    backend = "trt"

    def __init__(
        self,
        source: Path,
        known: Sidecar,
        loaded: Loaded,
        *,
        trt: TensorRT,
        memory: DeviceMemory,
        cuda_graph: bool = False,
    ) -> None:
        self.device = loaded.device
        self.provider = str(trt)
        self.inputs = loaded.inputs
        self.outputs = loaded.outputs
        self.precision = loaded.precision
        self.profiles = loaded.profiles
        self._graphs = cuda_graph
        self._no_graphs: str | None = None
        self._source = source
        self._tf32 = "TF32" in known.settings.get("flags", ())
        self._trt = trt
        self._memory = memory
        self._engine: Loaded | None = loaded
        self._loaded: Shape | None = None
        self._computed = False
        self._busy = False
        try:
            self._shapes = Shapes(trt, loaded.engine, (self.inputs, self.outputs), memory)
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from error

    @property
    def facts(self) -> Facts:
        """What else decides how fast it is; whether graphs could be had is known when a batch was loaded."""
        return Facts(cuda_graph=self._graphs, no_cuda_graph=self._no_graphs, tf32=self._tf32)

    def load(self, feeds: Feeds) -> None:
        """See Runner. A batch size that is new here is prepared first, and recorded if a graph was asked for.

        Raises:
            InputError: a name, a type or a shape is not what `inputs` says, or the batch is outside the
                ranges that the engine was built for.
            ModelError: TensorRT refuses the shapes.
            NotAvailable: the GPU has too little memory.
        """
        rows = check_feeds(self.inputs, feeds)
        profile = profiles.select(self.profiles, rows)
        if profile is None:
            ranges = " and ".join(map(str, self.profiles))
            raise InputError(
                f"a batch of {rows} is outside {ranges}, what {self._source} was built for; build it with "
                "another --batch"
            )
        if self._busy:  # what was started before may still read the buffers
            self.synchronize()
        self._loaded, self._computed = None, False  # a failure on the way leaves nothing that could be run
        with self._trt.listen():
            shape = self._ready(rows, profile)
            for spec in self.inputs:
                stage(shape.buffers[spec.name], feeds[spec.name])
                self._memory.copy_to_device(shape.buffers[spec.name])
            self._busy = True
            if self._graphs and shape.graph is None:
                self._record(shape)
        self._loaded = shape

    def enqueue(self) -> None:
        """See Runner.

        Raises:
            InputError: nothing was loaded.
            ModelError: TensorRT does not run the network.
            NotAvailable: the GPU refuses the recorded graph.
        """
        if self._loaded is None:
            raise InputError("the network cannot run before its inputs are loaded")
        self._busy = True
        if self._loaded.graph is not None:
            self._loaded.graph.launch()
        elif not self._start(self._loaded):
            raise ModelError(f"{self._source}: TensorRT does not run it: {messages.said(self._trt.said)}")
        self._computed = True

    def synchronize(self) -> None:
        """See Runner.

        Raises:
            NotAvailable: the GPU reported an error.
        """
        self._memory.synchronize()
        self._busy = False

    def fetch(self) -> dict[str, Array]:
        """See Runner.

        Raises:
            InputError: nothing was computed.
            NotAvailable: the GPU reported an error.
        """
        if self._loaded is None or not self._computed:
            raise InputError("the network has no outputs before it has run")
        for spec in self.outputs:
            self._memory.copy_to_host(self._loaded.buffers[spec.name])
        self.synchronize()
        arrays = {}
        for spec in self.outputs:
            arrays[spec.name] = np.empty(self._loaded.sizes[spec.name], dtype=spec.dtype)
            unstage(self._loaded.buffers[spec.name], arrays[spec.name])
        return arrays

    def __enter__(self) -> TrtRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._loaded = None
        try:
            self._memory.synchronize()
        finally:
            # TensorRT's objects first, each before what it was made from; then what they point to.
            self._shapes.close()
            self._engine = None
            self._memory.close()

    def _start(self, shape: Shape) -> bool:
        return bool(shape.context.execute_async_v3(self._memory.stream))

    def _ready(self, rows: int, profile: int) -> Shape:
        """The shape of `rows` rows; without a graph, if it cannot be had with one."""
        try:
            if self._graphs:
                try:
                    found = self._shapes.ready(rows, profile, own_context=True)
                except ModelError as error:
                    # 8.5 has no two contexts for one profile; whatever else is wrong shows without a graph.
                    self._give_up_graphs(str(error))
                else:
                    return found
            found = self._shapes.ready(rows, profile, own_context=False)
        except ModelError as error:
            raise ModelError(f"{self._source}: {error}") from error
        return found

    def _record(self, shape: Shape) -> None:
        """Records the inference, after one for nothing that loads its kernels; or notes why it cannot be."""
        try:
            context = shape.context
            if not self._start(shape):
                return  # it does not run at all, which `enqueue` will say
            self.synchronize()
            # TensorRT-RTX compiles some kernels while others already run; it tells when all are there.
            if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(
                self._memory.stream
            ):
                self._give_up_graphs(f"TensorRT cannot be recorded with a batch of {shape.rows}")
                return
            shape.graph = self._memory.record(lambda: self._start(shape))
        except NotAvailable as error:
            self._give_up_graphs(str(error))

    def _give_up_graphs(self, reason: str) -> None:
        """From here on no batch size has one: what is told of a runner must hold for all that it runs."""
        self.synchronize()
        self._shapes.forget_graphs()
        self._graphs, self._no_graphs = False, reason
