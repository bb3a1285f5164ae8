"""Runtimes that can run a network.

This table is the only list of them. Naming one loads nothing: a backend's module is imported when a
runner is opened or when somebody asks whether it could be.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bn_deploy.errors import InputError, NotAvailable

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
    """

    name: str
    module: str
    source: str

    def why_not(self) -> str | None:
        """None if the backend can run here, else the reason and what would change it."""
        reason: str | None = import_module(self.module).why_not()
        return reason

    def open(self, source: Any, *, threads: int) -> Runner:
        """A runner for `source`.

        Raises:
            NotAvailable: the backend cannot run here.
            ModelError: the source cannot be loaded.
        """
        if (reason := self.why_not()) is not None:
            raise NotAvailable(reason)
        runner: Runner = import_module(self.module).open_runner(source, threads=threads)
        return runner


BACKENDS: tuple[Backend, ...] = (
    Backend("torch", "bn_deploy.backends.pytorch", "network"),
    Backend("ort", "bn_deploy.backends.onnxrt", "onnx"),
    Backend("trt", "bn_deploy.backends.trt", "plan"),
)


def backend(name: str) -> Backend:
    """The row called `name`.

    Raises:
        InputError: there is none.
    """
    for row in BACKENDS:
        if row.name == name:
            return row
    raise InputError(f"unknown backend {name!r}; there are {', '.join(row.name for row in BACKENDS)}")
