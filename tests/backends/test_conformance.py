"""What every backend promises, asked of each that can run here."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.backends import BACKENDS, Backend, backend
from bn_deploy.backends.base import Array, Runner, check_feeds, infer
from bn_deploy.backends.options import RunOptions
from bn_deploy.engine import api, driver
from bn_deploy.engine.build import build
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import Precision, Stage, TensorSpec
from tests.backends.answers import close, images
from tests.lenets import bounded, float64, form, garments, one_thread, onnx_bytes  # noqa: F401 - a fixture


def gpu() -> str:
    return str(driver.gpu())


def tensorrt() -> str:
    return str(api.find())


SAYS_OF_ITSELF: dict[str, tuple[str | Callable[[], str], str | Callable[[], str]]] = {
    # a backend: where it computes, and with what; what is the machine's own is asked of it
    "torch": ("cpu", "eager"),
    "torch-compile": ("cpu", "inductor"),
    "aoti": ("cpu", "inductor"),
    "ort": ("cpu", "CPUExecutionProvider"),
    "ort-cuda": (gpu, "CUDAExecutionProvider"),
    "ort-trt": (gpu, "TensorrtExecutionProvider"),
    "openvino": ("cpu", "CPU"),
    "trt": (gpu, tensorrt),
}


@cache
def tiny() -> nn.Module:
    """What compilers get: they take as long for a layer as others for a network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(1, 2, 5, stride=8), nn.Sigmoid(), nn.Flatten(), nn.Linear(18, 10)
        ).eval()


def network(row: Backend) -> nn.Module:
    return tiny() if row.compiles and row.source == "network" else form(Stage.FOLDED)


@cache
def compiled(row: Backend) -> Runner:
    """The one runner of each compiler, which tests enter and leave by turns."""
    with pytest.MonkeyPatch.context() as patch:
        # Torch's folder of compiled headers, which anybody could have made: it must not be asked.
        patch.setattr("torch._inductor.codecache._HEADER_DIR", str(Path(__file__) / "headers"))
        return row.open(bounded(tiny()), threads=1)


def opened(row: Backend, folder: Path, threads: int = 1) -> Runner:
    """A runner of `network(row)`, or a skip with the reason."""
    if (reason := row.why_not()) is not None:
        pytest.skip(f"{row.name}: {reason}")
    if row.compiles and row.source == "network":
        return compiled(row)
    if row.source == "network":
        return row.open(bounded(form(Stage.FOLDED)), threads=threads)
    path = folder / "model.onnx"
    path.write_bytes(onnx_bytes(Stage.FOLDED))
    if row.source == "plan":
        path = build(path, folder / "model.plan").plan_path
    return row.open(path, threads=threads)


ROWS = [pytest.param(r, marks=[pytest.mark.gpu] * (r.source == "plan"), id=r.name) for r in BACKENDS]
every_backend = pytest.mark.parametrize("row", ROWS)


@pytest.fixture
def runner(row: Backend, tmp_path: Path) -> Iterator[Runner]:
    with opened(row, tmp_path) as entered:
        yield entered


@every_backend
def test_it_computes_the_network_at_any_batch_size_in_any_order(row: Backend, runner: Runner) -> None:
    for count, first in ((3, 0), (1, 5), (7, 9), (3, 20), (200, 0), (1, 0)):
        batch = images(count, first)
        assert close(infer(runner, {"image": batch})["logits"], batch, network(row)), count


@every_backend
def test_it_says_what_it_is(row: Backend, runner: Runner) -> None:
    assert runner.backend == row.name
    wanted = tuple(one if isinstance(one, str) else one() for one in SAYS_OF_ITSELF[row.name])
    assert (runner.device, runner.provider) == wanted
    assert runner.precision is Precision.FP32
    assert [(s.name, s.shape, s.dtype) for s in runner.inputs] == [("image", (None, 1, 28, 28), "float32")]
    assert [(s.name, s.shape, s.dtype) for s in runner.outputs] == [("logits", (None, 10), "float32")]


@every_backend
def test_what_was_fetched_belongs_to_the_caller(runner: Runner) -> None:
    first, second = images(4), images(4, 10)
    mine = infer(runner, {"image": first})["logits"]
    kept = mine.copy()
    assert mine.flags.owndata
    assert mine.flags.writeable
    infer(runner, {"image": second})  # running again does not change it
    np.testing.assert_array_equal(mine, kept)
    again = infer(runner, {"image": first})["logits"]
    again[:] = 0  # changing it does not change what the runner has
    np.testing.assert_array_equal(runner.fetch()["logits"], kept)


@every_backend
def test_it_may_be_enqueued_again_and_again(row: Backend, runner: Runner) -> None:
    batch = images(2)
    runner.load({"image": batch})
    for _ in range(3):
        runner.enqueue()
    runner.synchronize()
    first = runner.fetch()["logits"]
    assert close(first, batch, network(row))
    runner.enqueue()
    runner.synchronize()
    runner.synchronize()
    np.testing.assert_array_equal(runner.fetch()["logits"], first)
    np.testing.assert_array_equal(runner.fetch()["logits"], first)


@every_backend
def test_the_verbs_have_an_order(runner: Runner) -> None:
    with pytest.raises(InputError, match=r"^the network cannot run before its inputs are loaded$"):
        runner.enqueue()
    with pytest.raises(InputError, match=r"^the network has no outputs before it has run$"):
        runner.fetch()
    infer(runner, {"image": images(2)})
    runner.load({"image": images(2, 5)})
    with pytest.raises(InputError, match="no outputs"):  # those of the batch before are not its own
        runner.fetch()


@every_backend
def test_a_runner_that_was_left_does_unavailable(row: Backend, tmp_path: Path) -> None:
    with opened(row, tmp_path) as left:
        infer(left, {"image": images(1)})
    for verb in (left.enqueue, left.fetch):
        with pytest.raises(InputError):
            verb()


@every_backend
@pytest.mark.parametrize(
    "lay",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.concatenate([a, a], axis=3)[..., :28],
        lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape),
    ],
    ids=["fortran", "every other", "backwards", "part of rows", "broadcast", "read-only"],
)
def test_the_arrays_may_lie_in_memory_as_they_like(
    row: Backend, runner: Runner, lay: Callable[[Array], Array]
) -> None:
    array = lay(images(3))
    assert close(infer(runner, {"image": array})["logits"], np.ascontiguousarray(array), network(row))


@every_backend
def test_the_caller_may_drop_its_array_after_loading_it(row: Backend, runner: Runner) -> None:
    batch = images(64)
    wanted = batch.copy()
    runner.load({"image": batch})
    del batch
    gc.collect()
    for _ in range(4):  # whoever gets the memory next writes to it
        np.full((64, 1, 28, 28), np.nan, np.float32)
    runner.enqueue()
    runner.synchronize()
    assert close(runner.fetch()["logits"], wanted, network(row))


@every_backend
@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({}, "the network takes image; it was given nothing"),
        ({"picture": images(1)}, "the network takes image; it was given picture"),
        ({"image": images(1), "mask": images(1)}, "the network takes image; it was given image, mask"),
        ({"image": images(1).astype(np.float64)}, "input image float32 (N x 1 x 28 x 28) was given float64"),
        ({"image": images(1).astype(">f4")}, "input image float32 (N x 1 x 28 x 28) was given >f4"),
        (
            {"image": images(2)[:, 0]},
            "input image float32 (N x 1 x 28 x 28) was given the shape 2 x 28 x 28",
        ),
        (
            {"image": images(2)[..., :27]},
            "input image float32 (N x 1 x 28 x 28) was given the shape 2 x 1 x 28 x 27",
        ),
        ({"image": images(0)}, "a batch must have at least 1 row"),
    ],
    ids=["nothing", "other name", "one too many", "float64", "big endian", "rank", "size", "no rows"],
)
def test_wrong_inputs_are_refused_and_change_nothing(
    runner: Runner, feeds: dict[str, Array], said: str
) -> None:
    batch = images(2)
    before = infer(runner, {"image": batch})["logits"]
    with pytest.raises(InputError) as refusal:
        runner.load(feeds)
    assert str(refusal.value) == said
    np.testing.assert_array_equal(runner.fetch()["logits"], before)
    np.testing.assert_array_equal(infer(runner, {"image": batch})["logits"], before)


def test_inputs_whose_batches_differ_are_refused() -> None:
    specs = (TensorSpec("a", (None, 2), "float32"), TensorSpec("b", (None,), "int64"))
    feeds: dict[str, Array] = {"a": np.zeros((3, 2), np.float32), "b": np.zeros(3, np.int64)}
    assert check_feeds(specs, feeds) == 3
    assert check_feeds((), {}) == 1
    with pytest.raises(InputError, match=r"^the inputs' dynamic axes disagree: \[2, 3\]$"):
        check_feeds(specs, {**feeds, "b": np.zeros(2, np.int64)})


# The table


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in BACKENDS if r.source != "network"])
@pytest.mark.parametrize("content", [b"", b"no model at all", None], ids=["empty", "text", "missing"])
def test_a_file_that_is_no_model_is_refused_in_one_line(
    row: Backend, tmp_path: Path, content: bytes | None
) -> None:
    if (reason := row.why_not()) is not None:
        pytest.skip(f"{row.name}: {reason}")
    path = tmp_path / "model.file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ModelError, InputError)) as refusal:
        row.open(path, threads=1)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_without_onnx_runtime_the_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotAvailable) as refusal:
        backend("ort").open(Path("none.onnx"), threads=1)
    wanted = "onnxruntime is not installed; pip install 'bn-deploy[cpu]' (or 'bn-deploy[gpu]')"
    assert str(refusal.value).endswith(wanted)


def test_an_onnx_runtime_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('lib.so: no such file\\nsecond line')")
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    wanted = "onnxruntime is installed but does not load: lib.so: no such file"
    with pytest.raises(NotAvailable) as refusal:
        backend("ort").open(Path("none.onnx"), threads=1)
    assert str(refusal.value).endswith(wanted)


def test_every_backend_has_a_row_of_what_it_says() -> None:
    assert set(SAYS_OF_ITSELF) == {row.name for row in BACKENDS}


ASKED = RunOptions(cuda_graph=True, trust=True, lean_runtime=Path("lean.so"))


@pytest.mark.parametrize("row", [pytest.param(r, id=r.name) for r in BACKENDS])
@pytest.mark.parametrize("name", [one.name for one in fields(RunOptions)])
def test_an_option_goes_to_who_takes_it_and_nobody_else(
    row: Backend, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def open_runner(source: object, *, threads: int, **options: Any) -> None:
        given.update(options)

    fake = SimpleNamespace(why_not=lambda **_: None, open_runner=open_runner)
    monkeypatch.setattr("bn_deploy.backends.import_module", lambda _: fake)
    asked = ASKED.only([name])
    if name in row.takes:
        row.open("source", threads=1, running=asked)
        assert given[name] == getattr(ASKED, name)
        assert not {one.name for one in fields(RunOptions)} & (given.keys() - {name})
    else:
        flag = f"--{name.replace('_', '-')}"
        with pytest.raises(InputError, match=rf"^{flag} means nothing to {row.name}; trt takes it$"):
            row.open("source", threads=1, running=asked)
        assert given == {}


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match=r"^unknown backend 'tvm'; there are torch, .*, trt$"):
        backend("tvm")
