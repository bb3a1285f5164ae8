"""ONNX file -> TensorRT plan and its side-car.

One code path for TensorRT 8.5 to 11 and TensorRT-RTX; where they differ, api.py is asked by capability.
The ONNX file is read once: what is checked, digested and parsed are the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.artifact import sha256_bytes, write_bytes
from bn_deploy.engine import (
    api,
    configure,
    driver,
    knobs,
    messages,
    onnx_input,
    precision,
    profiles,
    proof,
    sidecar,
    timing_cache,
)
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.onnx_input import OnnxInput
from bn_deploy.engine.options import DEFAULT_BATCH, BuildOptions
from bn_deploy.engine.progress import Progress, monitor
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.engine.timing_cache import TimingCache
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import TensorSpec, Track, announced, silent
from bn_deploy.version import version

__all__ = ["DEFAULT_BATCH", "BuildOptions", "BuildResult", "build"]


@dataclass(frozen=True)
class BuildResult:
    """What a build left behind.

    Attributes:
        plan_path: the plan's file.
        sidecar_path: the JSON beside it.
        sidecar: its content.
        warnings: what TensorRT warned of, and what was wrong with the timing cache, one line each.
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
    track: Track = silent,
) -> BuildResult:
    """Builds the plan at `plan_path` and its side-car from the ONNX file at `onnx_path`.

    On failure, whatever was at `plan_path` is still there, unchanged. The side-car is written after the
    plan; should the process die in between, the plan's digest no longer fits, and every reader refuses it.

    Args:
        onnx_path: the network, in one file.
        plan_path: where the plan goes; the side-car goes beside it.
        options: what may be chosen; the defaults of BuildOptions if None.
        trt: which TensorRT; the one that `api.find` prefers if None.
        track: follows the build.

    Raises:
        NotAvailable: there is no TensorRT, or the one there is builds only where there is a GPU.
        ModelError: the file is no ONNX file, TensorRT cannot build it, or the engine does not compute in the
            precision that was asked for.
        InputError: an option does not fit this TensorRT, or a file cannot be read or written.
    """
    onnx_path, plan_path = Path(onnx_path), Path(plan_path)
    if plan_path.absolute() == onnx_path.absolute():
        raise InputError(f"the plan cannot take the place of its ONNX file {onnx_path}")
    options = options or BuildOptions()
    source = onnx_input.read(onnx_path)
    trt = trt or api.find()
    gpu = gpu_to_build_on(trt)
    knobs.check(options, trt)
    cache = _timing_cache(trt, options, gpu)
    with trt.listen() as log:
        try:
            plan, known = _build(trt, source, options, gpu, cache=cache, track=track)
        except ModelError as error:
            raise ModelError(f"{trt} cannot build {onnx_path}: {error}") from error
        warnings = tuple(messages.sentence(text) for text in log.warnings())
    write_bytes(plan_path, plan)
    problems = tuple(cache.problems) if isinstance(cache, TimingCache) else (cache,) if cache else ()
    return BuildResult(plan_path, sidecar.write(plan_path, known), known, (*warnings, *problems))


def gpu_to_build_on(trt: TensorRT) -> Gpu | None:
    """The GPU to build on; None where the builder needs none, and then looks at none.

    Raises:
        NotAvailable: it needs one, and there is none; or it cannot build at all.
    """
    if not trt.builds:
        raise NotAvailable(
            f"{trt} only runs plans and cannot build any: pip install 'bn-deploy[gpu]', or 'bn-deploy[rtx]' "
            "to build without a GPU"
        )
    if trt.builds_without_gpu and trt.compiles_on_target:
        return None
    found = driver.find_gpu()
    if isinstance(found, Gpu):
        return found
    if trt.builds_without_gpu:
        return None
    raise NotAvailable(
        f"{trt} builds only where there is a GPU: {found}; TensorRT-RTX needs none to build: "
        "pip install 'bn-deploy[rtx]'"
    )


def _timing_cache(trt: TensorRT, options: BuildOptions, gpu: Gpu | None) -> TimingCache | str | None:
    """The cache to use, why there is none, or None where none is wanted or possible.

    Raises:
        InputError: it was asked for and cannot be had.
    """
    if options.timing_cache is False or not trt.has_timing_cache or gpu is None:
        return None
    path = timing_cache.cache_path(trt, gpu)
    if isinstance(path, Path):
        return TimingCache(path)
    if options.timing_cache:
        raise InputError(f"no timing cache can be kept: {path}")
    return f"no timing cache is kept: {path}"


def _build(
    trt: TensorRT,
    source: OnnxInput,
    options: BuildOptions,
    gpu: Gpu | None,
    *,
    cache: TimingCache | str | None,
    track: Track,
) -> tuple[bytes, Sidecar]:
    """The plan and its side-car; nothing is written, and errors do not name the file yet."""
    capabilities = configure.targets(trt, options, gpu)
    builder = builder_of(trt)
    network = builder.create_network(trt.network_flags)
    parser = trt.module.OnnxParser(network, trt.logger)
    if not parser.parse(source.data):
        raise ModelError(messages.parser_errors(parser, source.nodes) or messages.said(trt.said))
    inputs = tuple(_spec(trt, network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_spec(trt, network.get_output(index)) for index in range(network.num_outputs))
    ranges = profiles.choose(inputs, options.profiles)
    layers = precision.census_of_network(network)
    flags = frozenset() if trt.strongly_typed else precision.weak_flags(source, options.precision)
    computes_in = precision.of_network(network) if trt.strongly_typed else precision.of_flags(flags)
    target = source.metadata.get("bn_deploy.target", "") if trt.strongly_typed else ""
    precision.check_wanted(options.precision, computes_in, layers, target)
    config = builder.create_builder_config()
    configure.configure(trt, config, options, flags, gpu)
    profiles.add(builder, config, inputs, ranges)
    if isinstance(cache, TimingCache):
        cache.attach(config)
    plan = _serialized(trt, builder, network, config, track)
    if isinstance(cache, TimingCache):
        cache.save()
    engine_layers = proof.of_plan(trt, plan, capabilities)
    if (told := precision.of_census(engine_layers)) is not None and engine_layers is not None:
        precision.check_wanted(options.precision, told, engine_layers)
        computes_in = told
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
        compute_capabilities=capabilities,
        gpu=None if gpu is None else gpu.name,
        settings=configure.settings(trt, config, timing_cache=isinstance(cache, TimingCache)),
        profiles=ranges,
        precision=computes_in,
        layers=layers,
        engine_layers=engine_layers,
        inputs=inputs,
        outputs=outputs,
    )


def _serialized(trt: TensorRT, builder: Any, network: Any, config: Any, track: Track) -> bytes:
    """The plan, with its progress shown where this TensorRT tells it."""
    description = "building the engine"
    if not trt.has_progress_monitor:
        plan = announced(track, description, lambda: builder.build_serialized_network(network, config))
    else:
        progress = Progress(track, description)
        config.progress_monitor = monitor(trt, progress)
        plan = builder.build_serialized_network(network, config)
        if progress.raised is not None:
            raise progress.raised
        progress.complete()
    if plan is None:
        raise ModelError(messages.said(trt.said))
    return bytes(plan)


def builder_of(trt: TensorRT) -> Any:
    """A Builder.

    Raises:
        NotAvailable: TensorRT cannot make one here.
    """
    try:
        return trt.module.Builder(trt.logger)
    except TypeError as error:  # what the bindings make of a factory that returned nothing
        raise NotAvailable(f"{trt} cannot start its builder: {messages.said(trt.said)}") from error


def _spec(trt: TensorRT, tensor: Any) -> TensorSpec:
    shape = tuple(None if size < 0 else int(size) for size in tensor.shape)
    return TensorSpec(tensor.name, shape, trt.numpy_type(tensor.dtype, tensor.name))
