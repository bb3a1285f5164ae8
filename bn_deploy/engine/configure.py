"""BuildOptions -> the builder's configuration, and back: the settings as the configuration has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bn_deploy.engine import knobs, messages
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.options import HARDWARE_LEVELS, BuildOptions
from bn_deploy.errors import ModelError, NotAvailable

# What TensorRT-RTX builds for when no target is named (NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines").
# Turing, 7.5, must be asked for: its builder has no float32 matrix product for it.
_DEFAULT_TARGETS = ("8.0+",)


def configure(
    trt: TensorRT, config: Any, options: BuildOptions, precision_flags: Iterable[str], gpu: Gpu | None
) -> None:
    """Makes `config`, an IBuilderConfig, what the options say; `knobs.check` has passed.

    Args:
        trt: whose configuration it is.
        config: the configuration, as it was created.
        options: what to make of it.
        precision_flags: the BuilderFlags that weak types need; none where types are strong.
        gpu: the GPU to build on; None where there is none.

    Raises:
        ModelError: this TensorRT does not know a precision, or cannot build for a target.
    """
    module = trt.module
    flags = module.BuilderFlag.__members__
    if trt.has_tf32_flag:
        (config.set_flag if options.tf32 else config.clear_flag)(flags["TF32"])
    for name in sorted(precision_flags):
        if name not in flags:
            raise ModelError(f"it computes in {name.lower()}, which {trt} does not know")
        config.set_flag(flags[name])
    verbosity = module.ProfilingVerbosity
    config.profiling_verbosity = (
        verbosity.DETAILED if options.detailed or not trt.strongly_typed else verbosity.LAYER_NAMES_ONLY
    )
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(flags["VERSION_COMPATIBLE"])
    if options.exclude_lean_runtime:
        config.set_flag(flags["EXCLUDE_LEAN_RUNTIME"])
    if options.hardware_compatible is not None:
        config.hardware_compatibility_level = trt.hardware_levels[
            HARDWARE_LEVELS[options.hardware_compatible]
        ]
    if gpu is None and trt.cpu_only_flag is not None:
        config.set_flag(flags[trt.cpu_only_flag])
    if options.compute_capabilities is not None:
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, text in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(trt.compute_capabilities[text], index):
                why = messages.said(trt.said)
                raise ModelError(f"it cannot be built for the compute capability {text}: {why}")


def targets(trt: TensorRT, options: BuildOptions, gpu: Gpu | None) -> tuple[str, ...]:
    """The compute capabilities that a plan runs on; "8.0+" is that one and all later ones.

    Raises:
        NotAvailable: there is no GPU, and TensorRT must be told what to build for.
    """
    if options.compute_capabilities is not None:
        return options.compute_capabilities
    if trt.compiles_on_target:
        return _DEFAULT_TARGETS
    if gpu is None:
        raise NotAvailable(f"there is no GPU for {trt} to build for; name one with --target")
    if options.hardware_compatible == "ampere+":
        return ("8.0+",)
    return (".".join(map(str, gpu.compute_capability)),)


def settings(trt: TensorRT, config: Any, *, timing_cache: bool) -> dict[str, Any]:
    """The settings as the configuration has them, by name; sorted, so that equal builds compare.

    TensorRT's enum values differ between versions. `not_available` says what this one lacks, and why.
    """
    module = trt.module
    flags = module.BuilderFlag.__members__
    return {
        "typing": "strong" if trt.strongly_typed else "weak",
        "flags": sorted(name for name, flag in flags.items() if config.get_flag(flag)),
        "profiling_verbosity": config.profiling_verbosity.name,
        "workspace_bytes": int(config.get_memory_pool_limit(module.MemoryPoolType.WORKSPACE)),
        "optimization_level": int(config.builder_optimization_level) if trt.has_optimization_level else None,
        "hardware_compatibility": config.hardware_compatibility_level.name if trt.hardware_levels else None,
        "timing_cache": timing_cache,
        "not_available": knobs.missing(trt),
    }
