"""The batch sizes that a TensorRT engine was run with, each with its buffers and its CUDA graph, if any."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bn_deploy.backends.device_memory import Buffer, DeviceMemory, Graph
from bn_deploy.engine import messages
from bn_deploy.engine.api import TensorRT
from bn_deploy.errors import ModelError
from bn_deploy.spec import TensorSpec

_MOST = 8  # batch sizes that keep their buffers; the one that was not used for longest gives way


@dataclass
class Shape:
    """One batch size of an engine.

    Attributes:
        rows: the batch size.
        profile: the optimisation profile that runs it.
        context: the IExecutionContext that runs it, shared unless the shape has a graph.
        sizes: the shape of each input and output.
        buffers: the memory of each.
        graph: the recorded inference; None if it is started anew each time.
    """

    rows: int
    profile: int
    context: Any
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: dict[str, Buffer] = field(default_factory=dict)
    graph: Graph | None = None


class Shapes:
    """Prepares an engine for batch sizes, and keeps what it allocated for the last few.

    Without graphs all of them share one execution context, which is set to whatever is to run next. A graph
    holds on to the addresses and the scratch memory of its context, so each shape then has a context of its
    own.

    Args:
        trt: whose engine it is.
        engine: the ICudaEngine.
        specs: its inputs, and its outputs.
        memory: where the buffers come from.

    Raises:
        ModelError: TensorRT cannot prepare the engine to run.
    """

    def __init__(
        self,
        trt: TensorRT,
        engine: Any,
        specs: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]],
        memory: DeviceMemory,
    ) -> None:
        self._trt = trt
        self._engine = engine
        self._inputs, self._outputs = specs
        self._memory = memory
        self._kept: dict[int, Shape] = {}
        self._profile_of: dict[int, int] = {}  # by the identity of a context
        self._shared = self._new_context()
        self._profile_of[id(self._shared)] = 0  # the first context of an engine begins with profile 0
        self._set_to: Shape | None = None

    def ready(self, rows: int, profile: int, *, own_context: bool) -> Shape:
        """The shape of `rows` rows, with its context set to it.

        Args:
            rows: the batch size.
            profile: the optimisation profile to run it with.
            own_context: whether it will be recorded as a graph.

        Raises:
            ModelError: TensorRT refuses the shapes.
            NotAvailable: the GPU has too little memory.
        """
        shape = self._kept.pop(rows, None)
        fresh = shape is None
        if shape is None:
            while len(self._kept) >= _MOST:
                self._drop(next(iter(self._kept)))
            shape = Shape(rows, profile, self._new_context() if own_context and self._kept else self._shared)
        try:
            if fresh or (shape.graph is None and self._set_to is not shape):
                self._set(shape)
        except BaseException:
            self._free(shape)
            self._set_to = None
            raise
        self._kept[rows] = shape  # the last one is the one used last
        return shape

    def forget_graphs(self) -> None:
        """Lets every shape be started anew each time; the stream must be idle."""
        for shape in self._kept.values():
            if shape.graph is not None:
                shape.graph.close()
                shape.graph = None
        self._set_to = None  # which context was set to what last no longer counts: each is set again

    def close(self) -> None:
        """Gives everything back; the stream must be idle."""
        for rows in list(self._kept):
            self._drop(rows)
        del self._shared

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise ModelError(f"TensorRT cannot prepare it to run: {messages.said(self._trt.said)}")
        # DETAILED plans would mark every layer for a profiler, on the host, in each inference.
        context.nvtx_verbosity = self._trt.module.ProfilingVerbosity.NONE
        return context

    def _set(self, shape: Shape) -> None:
        """Gives the context the shapes of the batch, and every tensor an address."""
        context, said = shape.context, self._trt.said
        if self._profile_of.get(id(context)) != shape.profile:
            if not context.set_optimization_profile_async(shape.profile, self._memory.stream):
                raise ModelError(f"TensorRT refuses the profile {shape.profile}: {messages.said(said)}")
            self._memory.synchronize()
            self._profile_of[id(context)] = shape.profile
        for spec in self._inputs:
            size = spec.bind(shape.rows)
            if not context.set_input_shape(spec.name, size):
                why = messages.said(said)
                raise ModelError(f"TensorRT refuses the shape {size} of input {spec.name}: {why}")
        if unknown := context.infer_shapes():
            raise ModelError(f"TensorRT cannot tell the shape of {', '.join(unknown)}: {messages.said(said)}")
        for spec in (*self._inputs, *self._outputs):
            self._place(shape, spec)
        self._set_to = shape

    def _place(self, shape: Shape, spec: TensorSpec) -> None:
        size = tuple(shape.context.get_tensor_shape(spec.name))
        if min(size, default=1) < 1:
            raise ModelError(f"tensor {spec.name} has no size before it is computed")
        if spec.name not in shape.buffers:
            shape.sizes[spec.name] = size
            nbytes = math.prod(size) * np.dtype(spec.dtype).itemsize
            shape.buffers[spec.name] = self._memory.allocate(nbytes)
        if not shape.context.set_tensor_address(spec.name, shape.buffers[spec.name].ptr):
            why = messages.said(self._trt.said)
            raise ModelError(f"TensorRT refuses the memory of tensor {spec.name}: {why}")

    def _drop(self, rows: int) -> None:
        self._memory.synchronize()
        self._free(self._kept.pop(rows))

    def _free(self, shape: Shape) -> None:
        if shape.graph is not None:
            shape.graph.close()
        for buffer in shape.buffers.values():
            self._memory.free(buffer)
        shape.buffers.clear()
        if shape.context is not self._shared:
            self._profile_of.pop(id(shape.context), None)
