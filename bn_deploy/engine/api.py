"""The one place that imports TensorRT: `tensorrt` 8.5 to 11, `tensorrt_rtx`, or `tensorrt_lean`.

What a version can do is asked of its names (does this member exist?), never of its version number:
TensorRT-RTX counts 1.x and has TensorRT 11's interface. Nothing here creates a Builder or a Runtime.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from importlib import import_module
from typing import Any

from bn_deploy.engine import driver
from bn_deploy.engine.flavours import FLAVOURS
from bn_deploy.engine.messages import Log
from bn_deploy.errors import ModelError, NotAvailable, first_line

# DataType by name: its numbers differ between versions, and trt.nptype() fails for every type in 8.5 under
# numpy 1.24 to 1.26. The other types (BF16, FP8, INT4, ...) have no counterpart in numpy.
NUMPY_TYPES: Mapping[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}

# Two spellings of the same processor.
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def operating_system() -> str:
    """This machine's operating system: "linux", "windows", ..."""
    return platform.system().lower()


def architecture() -> str:
    """This machine's processor family: "x86_64", "aarch64", ..."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


class TensorRT:
    """One TensorRT module and the questions that this package asks of it.

    Attributes:
        module: the Python module. It ships no types; every use of it is checked against the real names of
            the supported versions by a test.
        name: its row of FLAVOURS.
        version: its own version number, to be shown and compared for equality, never to be branched on.
        said: what TensorRT has said since the last `listen`.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.name = name
        self.module = module
        self.version = str(module.__version__)
        self.said = Log()

    def __str__(self) -> str:
        return f"{FLAVOURS[self.name].title} {self.version}"

    @property
    def runs(self) -> str:
        """The name of what builds the plans that it runs: its own, but for the lean runtime."""
        return FLAVOURS[self.name].runs

    @property
    def builds(self) -> bool:
        """Whether it can build at all; the lean runtime only runs plans that are version-compatible."""
        return "Builder" in FLAVOURS[self.name].parts

    @property
    def compiles_on_target(self) -> bool:
        """Whether its kernels are made on the machine that runs the plan (TensorRT-RTX).

        A build then times no kernel and is bound to no system; what would steer that says nothing.
        """
        return hasattr(self.module, "IRuntimeCache")

    @property
    def builds_without_gpu(self) -> bool:
        """Whether it compiles for named compute capabilities instead of the GPU it finds."""
        return hasattr(self.module.IBuilderConfig, "set_compute_capability")

    @property
    def cpu_only_flag(self) -> str | None:
        """The BuilderFlag that lets a build do without a GPU, where there is one.

        No release up to 11.4 has it. 11.5 announces it and its Python name was not seen, so any member
        that has CPU for a word is taken; without a way to name a target (above) it decides nothing.
        """
        members = self.module.BuilderFlag.__members__
        return next((name for name in members if "CPU" in name.split("_")), None)

    @property
    def strongly_typed(self) -> bool:
        """Whether each tensor has the type that the graph gives it: opted into (10), or always (11, RTX).

        Where not (8.5), flags allow the builder reduced precision, kernel by kernel.
        """
        return "STRONGLY_TYPED" in self.module.NetworkDefinitionCreationFlag.__members__

    @property
    def network_flags(self) -> int:
        """The argument of `create_network`: an explicit batch and, where there is a choice, strong types."""
        flag = self.module.NetworkDefinitionCreationFlag.__members__
        bits = 0
        if "EXPLICIT_BATCH" in flag:  # gone in 11; without it 8.5 makes a network the ONNX parser refuses
            bits |= 1 << int(flag["EXPLICIT_BATCH"])
        # 11 and RTX are always typed: there the member is a leftover, and no precision flag exists.
        if self.strongly_typed and "FP16" in self.module.BuilderFlag.__members__:
            bits |= 1 << int(flag["STRONGLY_TYPED"])
        return bits

    @property
    def has_tf32_flag(self) -> bool:
        """Whether float32 products in TF32 can be allowed and forbidden; allowed is TensorRT's default."""
        return "TF32" in self.module.BuilderFlag.__members__

    @property
    def has_optimization_level(self) -> bool:
        """Whether the builder can be told how hard to search (8.6 and later)."""
        return hasattr(self.module.IBuilderConfig, "builder_optimization_level")

    @property
    def has_timing_cache(self) -> bool:
        """Whether timings of kernels can be kept from one build to the next, where kernels are timed."""
        return hasattr(self.module.IBuilderConfig, "create_timing_cache") and not self.compiles_on_target

    @property
    def has_progress_monitor(self) -> bool:
        """Whether a build tells how far it is."""
        return hasattr(self.module, "IProgressMonitor")

    @property
    def has_version_compatible(self) -> bool:
        """Whether a plan can be built that later versions load (8.6 and later).

        TensorRT-RTX has the flag, and its builder then looks for a lean runtime that it does not ship.
        """
        return "VERSION_COMPATIBLE" in self.module.BuilderFlag.__members__ and not self.compiles_on_target

    @property
    def hardware_levels(self) -> dict[str, Any]:
        """HardwareCompatibilityLevel by its name; empty where a plan runs on its own kind of GPU only."""
        if not hasattr(self.module.IBuilderConfig, "hardware_compatibility_level") or self.compiles_on_target:
            return {}
        return dict(self.module.HardwareCompatibilityLevel.__members__)

    @property
    def has_host_code_switch(self) -> bool:
        """Whether code for the host, which a plan may carry, must be allowed before it is loaded (8.6)."""
        return hasattr(self.module.Runtime, "engine_host_code_allowed")

    @property
    def loads_lean_runtimes(self) -> bool:
        """Whether a plan without its lean runtime can be run with one that lies in a file (8.6)."""
        return hasattr(self.module.Runtime, "load_runtime")

    @property
    def compute_capabilities(self) -> dict[str, Any]:
        """What can be named as a target, such as "8.6" -> ComputeCapability.SM86; empty if nothing can."""
        if not self.builds_without_gpu:
            return {}
        members = self.module.ComputeCapability.__members__
        digits = {name: name[2:] for name in members if name.startswith("SM") and name[2:].isdigit()}
        return {f"{number[:-1]}.{number[-1]}": members[name] for name, number in digits.items()}

    @property
    def plan_systems(self) -> tuple[str, ...]:
        """The operating systems on which a plan built here can run.

        TensorRT's plans are bound to the system they were built on. TensorRT-RTX compiles on the target and
        its plans run on Linux and Windows (NVIDIA, "CPU-Only AOT and TensorRT-RTX Engines").
        """
        return ("linux", "windows") if self.compiles_on_target else (operating_system(),)

    def numpy_type(self, data_type: Any, tensor: str) -> str:
        """The name that numpy has for a DataType.

        Raises:
            ModelError: numpy has no such type; `tensor` names what has it.
        """
        try:
            return NUMPY_TYPES[data_type.name]
        except KeyError:
            raise ModelError(
                f"tensor {tensor} has the type {data_type.name}, which numpy lacks; inputs and outputs must "
                f"be one of {', '.join(NUMPY_TYPES.values())}"
            ) from None

    @cached_property
    def logger(self) -> Any:
        """The one logger of this process.

        TensorRT keeps the first logger it is given and ignores every other while objects that use it live,
        so there must never be a second.
        """
        log = self.said

        class Collector(self.module.ILogger):  # type: ignore[misc, name-defined]  # the module is untyped
            def __init__(self, module: Any) -> None:
                module.ILogger.__init__(self)

            def log(self, severity: Any, msg: str) -> None:
                if severity.name in {"INTERNAL_ERROR", "ERROR", "WARNING"}:
                    log.lines.append((severity.name, msg))

        return Collector(self.module)

    @contextmanager
    def listen(self) -> Iterator[Log]:
        """Yields what TensorRT says from here on; what it said before is forgotten."""
        self.said.lines.clear()
        yield self.said


def find(name: str | None = None) -> TensorRT:
    """The TensorRT to use: one that runs the plans of `name`, or else the one that can do most here.

    Where there is a GPU that is `tensorrt`; elsewhere `tensorrt_rtx`, which alone builds without one.

    Args:
        name: what built a plan, as its side-car says; the lean runtime stands in for a missing `tensorrt`.

    Raises:
        NotAvailable: it is not installed or does not load; the message names the extra that brings it.
    """
    if name is None:
        names = list(FLAVOURS)
        if driver.why_no_gpu() is not None:
            names.sort(key=lambda one: one != "tensorrt_rtx")
    else:
        names = [one for one, row in FLAVOURS.items() if row.runs == name]
        if not names:  # whatever a side-car says, nothing else is imported
            raise NotAvailable(f"no TensorRT called {name!r} builds plans")
    reasons = {}
    for candidate in names:
        found = _load(candidate)
        if isinstance(found, TensorRT):
            return found
        reasons[candidate] = found
    if name is not None:
        raise NotAvailable(f"{reasons[name]}; {_install(name)}")
    builders = " and ".join(reason for one, reason in reasons.items() if FLAVOURS[one].runs == one)
    raise NotAvailable(f"{builders}; {_install('tensorrt_rtx')} (builds anywhere) or {_install('tensorrt')}")


def why_not() -> str | None:
    """None if a TensorRT loads here, else the reason and what would change it."""
    try:
        find()
    except NotAvailable as error:
        return str(error)
    return None


def _install(name: str) -> str:
    return f"pip install 'bn-deploy[{FLAVOURS[name].extra}]'"


def _module(name: str) -> Any:
    """Imports the module called `name`, or else the bindings that it only hands on."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        try:
            return import_module(f"{name}_bindings")
        except ModuleNotFoundError:
            raise error from None


@cache
def _load(name: str) -> TensorRT | str:
    """The module called `name`, or why it cannot be used; tried once in a process."""
    try:
        module = _module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"{name} is not installed"
        return f"{name} is installed but does not load ({error})"
    except Exception as error:  # its libraries are loaded on import, and fail in many ways
        return f"{name} is installed but does not load ({first_line(error)})"
    # The package `tensorrt` can be present without its libraries, and an empty folder is a module too.
    missing = [part for part in FLAVOURS[name].parts if not hasattr(module, part)]
    if missing:
        return f"{name} is installed but incomplete (it has no {missing[0]})"
    return TensorRT(name, module)
