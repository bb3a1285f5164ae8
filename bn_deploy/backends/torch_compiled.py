"""Runs what PyTorch's own compilers make of a module on the CPU: torch.compile, and AOTInductor.

Both write C++ and load the library that a compiler makes of it, and loading a library executes it. So each
process compiles in a folder of its own, which only this user can write and which goes with the process:
nothing is ever loaded that this process has not compiled itself, no cache of an earlier run and no package
that somebody left.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from bn_deploy.backends.base import Feeds
from bn_deploy.backends.pytorch import TorchNetwork, TorchRunner
from bn_deploy.errors import ModelError, NotAvailable, first_line

Compute = Callable[..., "Tensor | tuple[Tensor, ...]"]

_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_OPTIONS = {
    "compile_threads": 1,  # more are processes, which outlive the compilation
    "fx_graph_cache": False,  # it knows nothing of the number of threads
    # Torch keeps compiled headers in its own folder whatever it is told, and they become part of the library.
    "cpp_cache_precompile_headers": False,
    "aot_inductor.precompile_headers": False,
}
_EXAMPLE_ROWS = 4  # a compiler takes 0 and 1 for constants, any other number for one of many


def why_not(compiler: str) -> str | None:  # noqa: ARG001 - both write C++
    """None if there is a C++ compiler and what it needs to build for this Python, else the reason."""
    name = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(name) is None:
        return (
            f"PyTorch needs the C++ compiler {name}, which is not here; Debian and Ubuntu: apt install g++ "
            "(CXX=... names another one)"
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return (
            "PyTorch's compiler needs Python.h, which is not here; Debian and Ubuntu: apt install python3-dev"
        )
    return None


def open_runner(source: TorchNetwork, *, threads: int, compiler: str) -> CompiledRunner:
    """A runner for `source`; see Backend.open."""
    if (reason := why_not(compiler)) is not None:
        raise NotAvailable(reason)
    return CompiledRunner(source, threads=threads, compiler=compiler)


class CompiledRunner(TorchRunner):
    """One library for all batch sizes, compiled for as many CPU threads as asked for.

    Args:
        network: the module with its boundary.
        threads: CPU threads; the compiler writes their number into the library.
        compiler: "torch-compile" or "aoti".

    Raises:
        ModelError: the compiler does not take the network; or see TorchRunner.
    """

    provider = "inductor"

    def __init__(self, network: TorchNetwork, *, threads: int, compiler: str) -> None:
        super().__init__(network, threads=threads)
        self.backend = compiler
        # torch.compile adds to what it has when a guard of it fails, for one size of batch for instance.
        self._may_compile = compiler == "torch-compile"
        self._fits: set[tuple[tuple[int, ...], ...]] = set()
        example = tuple(
            torch.zeros(spec.bind(_EXAMPLE_ROWS), dtype=getattr(torch, spec.dtype)) for spec in self.inputs
        )
        try:
            with _compiling(threads):
                self._compute = _COMPILERS[compiler](network, example)
        except Exception as error:  # a compiler, and the forward that it traces, are foreign code
            raise ModelError(f"{compiler} cannot compile the network: {first_line(error)}") from error

    def load(self, feeds: Feeds) -> None:
        """See TorchRunner. Runs shapes that it sees for the first time, so that nothing is compiled later."""
        super().load(feeds)
        shapes = tuple(feeds[spec.name].shape for spec in self.inputs)
        if self._may_compile and shapes not in self._fits:
            with _compiling(self._threads):
                self.enqueue()
            self._results = None
            self._fits.add(shapes)


def _torch_compile(network: TorchNetwork, example: tuple[Tensor, ...]) -> Compute:
    """Compiled just in time, which is now, and guarded at each call."""
    compiled: Compute = torch.compile(
        network.module,
        fullgraph=True,  # a part that it leaves to eager would pass unnoticed
        dynamic=True,
        # The layout that torch chooses for a convolution depends on the batch, and so would the library.
        options={**_OPTIONS, "layout_optimization": False},
    )
    for spec, tensor in zip(network.inputs, example, strict=True):
        for axis, size in enumerate(spec.shape):
            if size is None:
                torch._dynamo.mark_dynamic(tensor, axis)
    with torch.inference_mode():
        compiled(*example)
    return compiled


def _aot_inductor(network: TorchNetwork, example: tuple[Tensor, ...]) -> Compute:
    """Exported and compiled ahead of time into a package, which is loaded at once."""
    rows = torch.export.Dim("rows", min=1)
    dynamic = tuple(
        {axis: rows for axis, size in enumerate(spec.shape) if size is None} for spec in network.inputs
    )
    with torch.no_grad():
        exported = torch.export.export(network.module, example, dynamic_shapes=dynamic)
        package = torch._inductor.aoti_compile_and_package(
            exported,
            package_path=str(Path(tempfile.mkdtemp(dir=_folder()), "network.pt2")),
            inductor_configs={**_OPTIONS, "freezing": True},  # as its page advises for CPUs
        )
    loaded: Compute = torch._inductor.aoti_load_package(package)
    return loaded


_COMPILERS: dict[str, Callable[[TorchNetwork, tuple[Tensor, ...]], Compute]] = {
    "torch-compile": _torch_compile,
    "aoti": _aot_inductor,
}


@cache
def _folder() -> str:
    """Where this process compiles; what it finds out about the compiler serves all its runners."""
    folder = tempfile.mkdtemp(prefix="bn-deploy-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextmanager
def _compiling(threads: int) -> Iterator[None]:
    """Gives PyTorch's compiler a folder for the block, and so many threads to write into what it compiles."""
    from torch.fx.experimental import _config as symbols

    before, threads_before = os.environ.get(_CACHE), torch.get_num_threads()
    os.environ[_CACHE] = _folder()
    torch.set_num_threads(threads)
    try:
        # One library for a batch of 1 and for others: by default torch takes a 1 for a constant.
        with warnings.catch_warnings(), symbols.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            warnings.simplefilter("ignore")  # of the compiler, about its own source
            yield
    finally:
        torch.set_num_threads(threads_before)
        if before is None:
            del os.environ[_CACHE]
        else:
            os.environ[_CACHE] = before
