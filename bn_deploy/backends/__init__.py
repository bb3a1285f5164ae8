"""Runtimes that can run a network.

This table is the only list of them. Naming one loads nothing: a backend's module is imported when a
runner is opened or when somebody asks whether it could be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bn_deploy.backends.options import AS_IT_IS, RunOptions, flag
from bn_deploy.errors import InputError, NotAvailable
from bn_deploy.spec import Precision

if TYPE_CHECKING:
    from bn_deploy.backends.base import Runner


@dataclass(frozen=True)
class Backend:
    """One row of the table.

    Attributes:
        name: what the user types.
        module: the file that knows the runtime. It has `why_not() -> str | None`, the reason why it cannot
            run here, and `open_runner(source, *, threads)`, which returns a Runner or raises.
        source: what `open_runner` takes: "network" (a TorchNetwork), "onnx" or "plan" (a path).
        given: keyword arguments that both functions of the module get for this row.
        spins: its idle threads can be told to busy-wait or to sleep: `open_runner` takes `spinning`.
        precisions: the precisions that it can be asked for, whatever the source's: `open_runner` takes
            `precision`. None: it computes in the source's.
        compiles: opening a runner runs a compiler, for ten seconds or more: to be used when it is named, not
            because it is there.
        takes: the fields of RunOptions that it can be asked for: `open_runner` takes them by name.
    """

    name: str
    module: str
    source: str
    given: Mapping[str, str] = field(default_factory=dict, hash=False)
    spins: bool = False
    precisions: tuple[Precision, ...] = ()
    compiles: bool = False
    takes: tuple[str, ...] = ()

    def why_not(self) -> str | None:
        """None if the backend can run here, else the reason and what would change it."""
        reason: str | None = import_module(self.module).why_not(**self.given)
        return reason

    def open(
        self,
        source: Any,
        *,
        threads: int,
        spinning: bool | None = None,
        precision: Precision | None = None,
        running: RunOptions = AS_IT_IS,
    ) -> Runner:
        """A runner for `source`.

        Args:
            source: the network, in the form that `self.source` says.
            threads: CPU threads, for runtimes that compute on the CPU.
            spinning: whether idle threads busy-wait for work; None leaves it to the runtime.
            precision: the number format to compute in; None is the source's.
            running: what else is asked for.

        Raises:
            InputError: the runtime's threads cannot spin, or it does not take a precision or another option.
            NotAvailable: the backend cannot run here, or would compute in another precision or somewhere else
                than asked.
            ModelError: the source cannot be loaded.
        """
        options: dict[str, Any] = dict(self.given)
        if self.spins and spinning is not None:
            options["spinning"] = spinning
        elif spinning:
            raise InputError(f"the threads of {self.name} cannot be told to spin")
        if precision in self.precisions:
            options["precision"] = precision
        elif precision is not None:
            takes = ", ".join(p.value for p in self.precisions) or "none: it computes in the network's"
            raise InputError(f"{self.name} cannot be asked for {precision.value}; it can for {takes}")
        for name, value in running.asked().items():
            if name not in self.takes:
                raise InputError(f"{flag(name)} means nothing to {self.name}; {takers(name)} takes it")
            options[name] = value
        if (reason := self.why_not()) is not None:
            raise NotAvailable(reason)
        runner: Runner = import_module(self.module).open_runner(source, threads=threads, **options)
        return runner


_TORCH_COMPILED = "bn_deploy.backends.torch_compiled"
_ORT = "bn_deploy.backends.onnxrt"

BACKENDS: tuple[Backend, ...] = (
    Backend("torch", "bn_deploy.backends.pytorch", "network"),
    Backend("torch-compile", _TORCH_COMPILED, "network", {"compiler": "torch-compile"}, compiles=True),
    Backend("aoti", _TORCH_COMPILED, "network", {"compiler": "aoti"}, compiles=True),
    Backend("ort", _ORT, "onnx", {"provider": "CPUExecutionProvider"}, spins=True),
    Backend("ort-cuda", _ORT, "onnx", {"provider": "CUDAExecutionProvider"}),
    Backend("ort-trt", _ORT, "onnx", {"provider": "TensorrtExecutionProvider"}, compiles=True),
    Backend(
        "openvino",
        "bn_deploy.backends.openvino_cpu",
        "onnx",
        precisions=(Precision.FP32, Precision.FP16, Precision.BF16),
    ),
    Backend("trt", "bn_deploy.backends.trt", "plan", takes=("cuda_graph", "trust", "lean_runtime")),
)


def takers(option: str) -> str:
    """The backends that take a field of RunOptions, in words."""
    return " and ".join(row.name for row in BACKENDS if option in row.takes)


def backend(name: str) -> Backend:
    """The row called `name`.

    Raises:
        InputError: there is none.
    """
    for row in BACKENDS:
        if row.name == name:
            return row
    raise InputError(f"unknown backend {name!r}; there are {', '.join(row.name for row in BACKENDS)}")
