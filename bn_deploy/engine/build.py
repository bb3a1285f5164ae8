"""ONNX file -> TensorRT plan and its side-car.

One code path for TensorRT 8.5 to 11 and TensorRT-RTX; where they differ, api.py is asked by capability.
The ONNX file is read once: what is checked, digested and parsed are the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.artifact import sha256_bytes, write_bytes
from bn_deploy.engine import api, driver, messages, onnx_input, precision, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.onnx_input import OnnxInput
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from bn_deploy.version import version

DEFAULT_BATCH = BatchRange(1, 64, 256)

# What TensorRT-RTX builds for when no target is named (NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines").
# Turing, 7.5, must be asked for: its builder has no float32 matrix product for it.
_DEFAULT_TARGETS = ("8.0+",)

# Reduced precision that a weakly typed builder uses only when allowed, and the flag that allows it.
_WEAK_FLAGS = {Precision.FP16: "FP16", Precision.BF16: "BF16", Precision.INT8: "INT8"}

_OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """What may be chosen about a build. A choice that this TensorRT cannot honour is an error.

    Attributes:
        batch: the batch sizes that the engine accepts. None: 1:64:256 if the network's batch is dynamic,
            else the one size that it has; a static network refuses any other.
        workspace_bytes: most GPU memory that a kernel may use while it runs; None leaves it to TensorRT.
        tf32: allow float32 products in TF32, which keeps 10 bits of the mantissa. TensorRT's own default
            is to allow it; here it must be asked for.
        optimization_level: how hard to search for fast kernels, 0 to 5; None leaves it to TensorRT.
        compute_capabilities: the GPUs to build for, such as ("8.6", "8.9"); None leaves it to TensorRT.
            Only TensorRT-RTX can be told: TensorRT builds for the GPU that is here.
    """

    batch: BatchRange | None = None
    workspace_bytes: int | None = None
    tf32: bool = False
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"the workspace must be at least 1 byte, not {self.workspace_bytes}")
        if self.optimization_level is not None and self.optimization_level not in _OPTIMIZATION_LEVELS:
            raise ValueError(f"the optimization level must be 0 to 5, not {self.optimization_level}")
        if self.compute_capabilities == ():
            raise ValueError("name at least one compute capability, or none at all")


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        plan_path: the plan's file.
        sidecar_path: the JSON beside it.
        sidecar: its content.
        warnings: what TensorRT warned of, one line each.
    """

    plan_path: Path
    sidecar_path: Path
    sidecar: Sidecar
    warnings: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """The size of the plan's file."""
        return self.sidecar.plan_bytes

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the engine takes."""
        return self.sidecar.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the engine gives."""
        return self.sidecar.outputs


def build(
    onnx_path: str | Path,
    plan_path: str | Path,
    *,
    options: BuildOptions | None = None,
    trt: TensorRT | None = None,
) -> BuildResult:
    """Builds the plan at `plan_path` and its side-car from the ONNX file at `onnx_path`.

    On failure, whatever was at `plan_path` is still there, unchanged. The side-car is written after the
    plan; should the process die in between, the plan's digest no longer fits, and every reader refuses it.

    Args:
        onnx_path: the network, in one file.
        plan_path: where the plan goes; the side-car goes beside it.
        options: what may be chosen; the defaults of BuildOptions if None.
        trt: which TensorRT; the one that `api.find` prefers if None.

    Raises:
        NotAvailable: there is no TensorRT, or the one there is builds only where there is a GPU.
        ModelError: the file is no ONNX file, or TensorRT cannot build it.
        InputError: an option does not fit this TensorRT, or a file cannot be read or written.
    """
    onnx_path, plan_path = Path(onnx_path), Path(plan_path)
    if plan_path.absolute() == onnx_path.absolute():
        raise InputError(f"the plan cannot take the place of its ONNX file {onnx_path}")
    options = options or BuildOptions()
    source = onnx_input.read(onnx_path)
    trt = trt or api.find()
    gpu = _gpu(trt)
    _check_options(options, trt)
    with trt.listen() as log:
        try:
            plan, known = _build(trt, source, options, gpu)
        except ModelError as error:
            raise ModelError(f"{trt} cannot build {onnx_path}: {error}") from error
        warnings = tuple(messages.sentence(text) for text in log.warnings())
    write_bytes(plan_path, plan)
    return BuildResult(plan_path, sidecar.write(plan_path, known), known, warnings)


def _gpu(trt: TensorRT) -> Gpu | None:
    """The GPU to build on; None where the builder needs none, and then looks at none."""
    if trt.builds_without_gpu:
        return None
    found = driver.find_gpu()
    if isinstance(found, str):
        raise NotAvailable(
            f"{trt} builds only where there is a GPU: {found}; TensorRT-RTX needs none to build: "
            "pip install 'bn-deploy[rtx]'"
        )
    return found


def _check_options(options: BuildOptions, trt: TensorRT) -> None:
    if options.tf32 and not trt.has_tf32_flag:
        raise InputError(f"{trt} has no TF32 flag")
    if options.optimization_level is not None and not trt.has_optimization_level:
        raise InputError(f"{trt} has no optimization level")
    if options.compute_capabilities is not None:
        known = trt.compute_capabilities
        if not known:
            raise InputError(f"{trt} builds for the GPU that is here; it cannot be told a compute capability")
        if unknown := [text for text in options.compute_capabilities if text not in known]:
            raise InputError(f"{trt} cannot build for {', '.join(unknown)}; it knows {', '.join(known)}")


def _build(trt: TensorRT, source: OnnxInput, options: BuildOptions, gpu: Gpu | None) -> tuple[bytes, Sidecar]:
    """The plan and its side-car; nothing is written, and errors do not name the file yet."""
    module = trt.module
    builder = _builder(trt)
    network = builder.create_network(trt.network_flags)
    parser = module.OnnxParser(network, trt.logger)
    if not parser.parse(source.data):
        raise ModelError(messages.parser_errors(parser, source.nodes) or _said(trt))
    inputs = tuple(_spec(trt, network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_spec(trt, network.get_output(index)) for index in range(network.num_outputs))
    batch = _batch(inputs, options.batch)
    computes_in = precision.of_network(network)
    config = builder.create_builder_config()
    _configure(trt, config, options, computes_in)
    _add_profile(builder, config, inputs, batch)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelError(_said(trt))
    plan = bytes(serialized)
    return plan, Sidecar(
        plan_sha256=sha256_bytes(plan),
        plan_bytes=len(plan),
        onnx_sha256=sha256_bytes(source.data),
        origin=source.metadata,
        package_version=version(),
        tensorrt=trt.name,
        tensorrt_version=trt.version,
        systems=trt.plan_systems,
        architecture=api.architecture(),
        compute_capabilities=_targets(options, gpu),
        gpu=None if gpu is None else gpu.name,
        settings=_settings(trt, config),
        batch=batch,
        precision=computes_in,
        inputs=inputs,
        outputs=outputs,
    )


def _builder(trt: TensorRT) -> Any:
    try:
        return trt.module.Builder(trt.logger)
    except TypeError as error:  # what the bindings make of a factory that returned nothing
        raise NotAvailable(f"{trt} cannot start its builder: {_said(trt)}") from error


def _said(trt: TensorRT) -> str:
    return messages.summary(trt.said.errors() or trt.said.warnings()) or "it gave no reason"


def _spec(trt: TensorRT, tensor: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return TensorSpec(tensor.name, shape, trt.numpy_type(tensor.dtype, tensor.name))


def _batch(inputs: tuple[TensorSpec, ...], wanted: BatchRange | None) -> BatchRange:
    """The batch range of the engine, once it is certain that the inputs allow one."""
    for spec in inputs:
        if None in spec.shape[1:]:
            raise ModelError(
                f"input {spec} has a dynamic axis that is not the first; only the batch may vary"
            )
    if any(None in spec.shape for spec in inputs):
        return wanted or DEFAULT_BATCH
    size = next((spec.shape[0] for spec in inputs if spec.shape), None) or 1
    fixed = BatchRange(size, size, size)
    if wanted not in (None, fixed):
        raise ModelError(
            f"its batch is fixed at {size}, so {wanted} cannot be had; export it with a dynamic batch"
        )
    return fixed


def _configure(trt: TensorRT, config: Any, options: BuildOptions, computes_in: Precision) -> None:
    module = trt.module
    flags = module.BuilderFlag.__members__
    if trt.has_tf32_flag:
        (config.set_flag if options.tf32 else config.clear_flag)(flags["TF32"])
    if not trt.strongly_typed and (name := _WEAK_FLAGS.get(computes_in)) is not None:
        if name not in flags:
            raise ModelError(f"it computes in {computes_in.value}, which {trt} does not know")
        config.set_flag(flags[name])
    # The inspector then tells each layer's types: the runner reads the precision back from the engine.
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.compute_capabilities is not None:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, text in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(trt.compute_capabilities[text], index):
                raise ModelError(f"it cannot be built for the compute capability {text}: {_said(trt)}")


def _add_profile(builder: Any, config: Any, inputs: tuple[TensorSpec, ...], batch: BatchRange) -> None:
    dynamic = [spec for spec in inputs if None in spec.shape]
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for spec in dynamic:
        sizes = (batch.minimum, batch.optimum, batch.maximum)
        profile.set_shape(spec.name, *(spec.bind(size) for size in sizes))
    if config.add_optimization_profile(profile) < 0:
        raise ModelError(f"the batch range {batch} was refused")


def _targets(options: BuildOptions, gpu: Gpu | None) -> tuple[str, ...]:
    if gpu is not None:
        return (".".join(map(str, gpu.compute_capability)),)
    return options.compute_capabilities or _DEFAULT_TARGETS


def _settings(trt: TensorRT, config: Any) -> dict[str, Any]:
    """The settings as the builder's configuration has them, by name; sorted, so that equal builds compare."""
    module = trt.module
    flags = module.BuilderFlag.__members__
    return {
        "typing": "strong" if trt.strongly_typed else "weak",
        "flags": sorted(name for name, flag in flags.items() if config.get_flag(flag)),
        "profiling_verbosity": config.profiling_verbosity.name,
        "workspace_bytes": int(config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE)),
        "optimization_level": int(config.builder_optimization_level) if trt.has_optimization_level else None,
    }
