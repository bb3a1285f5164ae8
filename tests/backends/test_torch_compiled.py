"""What only PyTorch's compilers can get wrong. They take so long that the networks here are tiny."""

from __future__ import annotations

import os
import sysconfig
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.backends import BACKENDS, backend
from bn_deploy.backends.base import facts, infer, loaded_census
from bn_deploy.backends.pytorch import TorchNetwork
from bn_deploy.backends.torch_compiled import CompiledRunner
from bn_deploy.errors import ModelError, NotAvailable
from bn_deploy.spec import Precision, TensorSpec
from tests.backends.answers import images
from tests.backends.test_conformance import compiled, opened
from tests.lenets import one_thread  # noqa: F401 - a fixture

COMPILERS = [row.name for row in BACKENDS if row.given.get("compiler")]
every_compiler = pytest.mark.parametrize("name", COMPILERS)

X, Y = (TensorSpec(name, (None, 2), "float32") for name in "xy")


@every_compiler
def test_one_library_serves_every_batch_size(name: str, tmp_path: Path) -> None:
    counters = torch._dynamo.utils.counters["stats"]
    with opened(backend(name), tmp_path) as runner:
        made = counters["unique_graphs"]
        for count in (1, 2, 15, 16, 64):  # torch alone would compile again for 1, and for 16
            infer(runner, {"image": images(count)})
        assert counters["unique_graphs"] == made


def test_nothing_is_compiled_once_the_inputs_are_loaded(tmp_path: Path) -> None:
    """Each shape runs once while it is loaded: a guard that fails does so before anybody counts the time."""
    with opened(backend("torch-compile"), tmp_path) as runner:
        assert isinstance(runner, CompiledRunner)
        ran: list[str] = []
        compute = runner._compute

        def counted(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
            ran.append("run")
            return compute(*tensors)

        runner._compute = counted
        try:
            for count in (31, 31, 33):
                runner.load({"image": images(count)})
            assert len(ran) == 2
        finally:
            runner._compute = compute


@every_compiler
def test_it_says_what_it_is(name: str, tmp_path: Path) -> None:
    with opened(backend(name), tmp_path) as runner:
        assert (runner.backend, runner.precision) == (name, Precision.FP32)
        assert facts(runner).threads == 1
        assert facts(runner).tf32 is False
        assert loaded_census(runner) is None


@every_compiler
def test_what_it_compiles_lies_where_nobody_else_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a library executes it; torch's own folder has a name that anybody could make first."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "somebody's"))
    seen: list[Path] = []

    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
            raise ZeroDivisionError

    with pytest.raises(ModelError):
        backend(name).open(TorchNetwork(Looks().eval(), (X,), (Y,)), threads=1)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "somebody's")
    opened(backend(name), tmp_path)
    assert not (tmp_path / "somebody's").exists()
    assert all(folder.parent == Path(tempfile.gettempdir()) for folder in seen)
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in seen)


@every_compiler
def test_a_network_that_it_cannot_compile_is_refused_in_one_line(name: str) -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x  # no graph holds a branch on a value

    before = torch.get_num_threads()
    with pytest.raises(ModelError, match=rf"^{name} cannot compile the network: ") as refusal:
        backend(name).open(TorchNetwork(Asks().eval(), (X,), (Y,)), threads=before + 2)
    assert "\n" not in str(refusal.value)
    assert torch.get_num_threads() == before


def test_without_a_compiler_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    for name in COMPILERS:
        assert (backend(name).why_not() or "").startswith(
            "PyTorch needs the C++ compiler no-such-compiler, which is not here; "
        )
    with pytest.raises(NotAvailable):
        backend("aoti").open(TorchNetwork(nn.ReLU().eval(), (X,), (Y,)), threads=1)


def test_without_pythons_headers_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "true")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in (backend("aoti").why_not() or "")


def test_it_compiles_for_the_threads_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    had: list[int] = []

    def pretend(network: TorchNetwork, example: tuple[Tensor, ...]) -> nn.Module:
        had.append(torch.get_num_threads())
        return network.module

    monkeypatch.setattr("bn_deploy.backends.torch_compiled._COMPILERS", {"aoti": pretend})
    before = torch.get_num_threads()
    with CompiledRunner(TorchNetwork(nn.ReLU().eval(), (X,), (Y,)), threads=before + 1, compiler="aoti") as r:
        infer(r, {"x": np.ones((1, 2), np.float32)})
        assert facts(r).threads == before + 1
    assert had == [before + 1]
    assert torch.get_num_threads() == before


def test_the_compiled_runner_is_made_once() -> None:
    """What keeps these tests affordable."""
    for name in COMPILERS:
        if backend(name).why_not() is None:
            assert compiled(backend(name)) is compiled(backend(name))
