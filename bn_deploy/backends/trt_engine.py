"""A plan as a TensorRT engine: loading it, and reading off what it takes, gives and computes in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.engine import messages, precision
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec


@dataclass(frozen=True)
class Loaded:
    """An engine on the GPU.

    Attributes:
        engine: the ICudaEngine.
        runtime: the Runtime that it came from, and that it needs as long as it lives.
        device: the GPU, in words.
        inputs: what it takes.
        outputs: what it gives.
        precision: the number format it computes in.
        profiles: the batch sizes it accepts, a range for each optimisation profile.
    """

    engine: Any
    runtime: Any
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    profiles: tuple[BatchRange, ...]


def load(
    source: Path,
    plan: bytes,
    known: Sidecar,
    *,
    trt: TensorRT,
    device: str,
    trust: bool = False,
    lean_runtime: Path | None = None,
) -> Loaded:
    """The engine in `plan`, which fits this machine and has been checked against its side-car.

    Args:
        source: where the plan lies, for messages.
        plan: its bytes.
        known: its side-car.
        trt: the TensorRT to load it with, which is being listened to.
        device: the GPU, in words.
        trust: let the plan bring code for the host.
        lean_runtime: the library that runs a plan that was built without its own.

    Raises:
        NotAvailable: TensorRT does not start here, or that is no lean runtime.
        ModelError: TensorRT does not load the plan, or it computes in another precision than its side-car
            says.
    """
    log = trt.said
    runtime = trt.module.Runtime(trt.logger)
    if log.errors():  # the object may be a null inside, on which any further call ends the process
        raise NotAvailable(f"{trt} cannot start on {device}: {messages.summary(log.errors())}")
    if lean_runtime is not None:
        runtime = runtime.load_runtime(str(lean_runtime))
        if runtime is None:
            raise NotAvailable(f"{lean_runtime} is no lean runtime that loads here: {messages.said(log)}")
    if trt.has_host_code_switch:
        runtime.engine_host_code_allowed = trust and known.carries_host_code
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ModelError(f"{source}: TensorRT cannot load it: {messages.said(log)}")
    try:
        inputs, outputs = (_specs(trt, engine, mode) for mode in ("INPUT", "OUTPUT"))
        computes_in = _precision(trt, engine, known)
    except ModelError as error:
        raise ModelError(f"{source}: {error}") from error
    return Loaded(engine, runtime, device, inputs, outputs, computes_in, _profiles(engine, inputs))


def _specs(trt: TensorRT, engine: Any, mode: str) -> tuple[TensorSpec, ...]:
    """The engine's tensors of one TensorIOMode."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    specs = []
    for name in names:
        if engine.get_tensor_mode(name).name != mode:
            continue
        if engine.get_tensor_location(name) != trt.module.TensorLocation.DEVICE:
            raise ModelError(f"tensor {name} is not computed on the GPU, but holds a shape")
        shape = tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name))
        specs.append(TensorSpec(name, shape, trt.numpy_type(engine.get_tensor_dtype(name), name)))
    return tuple(specs)


def _precision(trt: TensorRT, engine: Any, known: Sidecar) -> Precision:
    """The precision that the engine computes in, which must be the side-car's.

    Where the inspector does not tell it, the side-car's word, read back from the network, holds if the
    builder had no freedom: with strong types, or in fp32.
    """
    found = precision.of_census(precision.census_of_engine(engine, trt.module))
    if found is None and (known.typed or known.precision is Precision.FP32):
        return known.precision
    if found is not known.precision:
        told = "it does not tell its precision" if found is None else f"it computes in {found.value}"
        raise ModelError(f"{told}, and was built as {known.precision.value}")
    return found


def _profiles(engine: Any, inputs: tuple[TensorSpec, ...]) -> tuple[BatchRange, ...]:
    """The batch sizes of each profile; a static network is counted as one row, as check_feeds does."""
    dynamic = [(spec.name, spec.shape.index(None)) for spec in inputs if None in spec.shape]
    ranges = []
    for index in range(engine.num_optimization_profiles if dynamic else 0):
        sizes = [
            [shape[axis] for shape in engine.get_tensor_profile_shape(name, index)] for name, axis in dynamic
        ]
        low, best, high = zip(*sizes, strict=True)
        ranges.append(BatchRange(max(low), min(best), min(high)))
    return tuple(ranges) or (BatchRange(1, 1, 1),)
