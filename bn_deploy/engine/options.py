"""What may be chosen about a build."""

from __future__ import annotations

from dataclasses import dataclass

from bn_deploy.spec import BatchRange, Precision

DEFAULT_BATCH = BatchRange(1, 64, 256)

# How far a plan may travel to other GPUs, as a person says it, and TensorRT's name for it.
HARDWARE_LEVELS = {"ampere+": "AMPERE_PLUS", "same": "SAME_COMPUTE_CAPABILITY"}

_OPTIMIZATION_LEVELS = range(6)


@dataclass(frozen=True)
class BuildOptions:
    """What may be chosen about a build. A choice that this TensorRT cannot honour is an error.

    Attributes:
        batch: the batch sizes that the engine accepts, one profile each. None: 1:64:256 if the network's
            batch is dynamic, else the one size that it has; a static network refuses any other.
        precision: the number format that the engine must compute in; another one is an error. None takes
            whatever the file is typed for.
        workspace_bytes: most GPU memory that a kernel may use while it runs; None leaves it to TensorRT.
        tf32: allow float32 products in TF32, which keeps 10 bits of the mantissa. TensorRT's own default
            is to allow it; here it must be asked for.
        optimization_level: how hard to search for fast kernels, 0 to 5; None leaves it to TensorRT.
        compute_capabilities: the GPUs to build for, such as ("8.6", "8.9"); None leaves it to TensorRT.
            Only TensorRT-RTX can be told: TensorRT builds for the GPU that is here.
        version_compatible: let later versions of TensorRT load the plan. It then carries code for the host.
        exclude_lean_runtime: leave that code out; the plan then needs a lean runtime where it is loaded.
        hardware_compatible: "ampere+" to run on every GPU since Ampere, "same" on every one of this compute
            capability; None on this kind of GPU only.
        timing_cache: keep the timings of kernels for later builds; None where this TensorRT can.
        detailed: have the engine tell each layer's kernel and types. It does so without being asked where
            types are weak: nothing else would prove in which precision it computes.
    """

    batch: BatchRange | tuple[BatchRange, ...] | None = None
    precision: Precision | None = None
    workspace_bytes: int | None = None
    tf32: bool = False
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] | None = None
    version_compatible: bool = False
    exclude_lean_runtime: bool = False
    hardware_compatible: str | None = None
    timing_cache: bool | None = None
    detailed: bool = False

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"the workspace must be at least 1 byte, not {self.workspace_bytes}")
        if self.optimization_level is not None and self.optimization_level not in _OPTIMIZATION_LEVELS:
            raise ValueError(f"the optimization level must be 0 to 5, not {self.optimization_level}")
        if self.compute_capabilities == ():
            raise ValueError("name at least one compute capability, or none at all")
        if self.hardware_compatible not in (None, *HARDWARE_LEVELS):
            raise ValueError(f"hardware compatibility must be one of {', '.join(HARDWARE_LEVELS)}")
        if self.exclude_lean_runtime and not self.version_compatible:
            raise ValueError("only a version-compatible plan has a lean runtime that could be left out")
        if len(set(self.profiles)) != len(self.profiles):
            raise ValueError("a batch range was given twice")

    @property
    def profiles(self) -> tuple[BatchRange, ...]:
        """The batch ranges asked for, in order; none if it was left open."""
        if self.batch is None:
            return ()
        return (self.batch,) if isinstance(self.batch, BatchRange) else self.batch
