"""What every backend promises, asked of each that can run here."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from bn_deploy.backends import BACKENDS, Backend, backend
from bn_deploy.backends.base import Array, Runner, check_feeds, facts, infer
from bn_deploy.backends.onnxrt import OrtRunner
from bn_deploy.backends.pytorch import TorchNetwork, TorchRunner
from bn_deploy.engine.build import build
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import Precision, Stage, TensorSpec
from tests.engine.models import cnn, save
from tests.lenets import bounded, float64, form, garments, one_thread, onnx_bytes  # noqa: F401 - a fixture

SAYS_OF_ITSELF = {
    "torch": ("cpu", "eager"),
    "torch-compile": ("cpu", "inductor"),
    "aoti": ("cpu", "inductor"),
    "ort": ("cpu", "CPUExecutionProvider"),
    "openvino": ("cpu", "CPU"),
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


def images(count: int, first: int = 0) -> Array:
    part: Array = garments().test.images[first : first + count].copy()
    return part


def close(got: Array, batch: Array, of: nn.Module | None = None) -> bool:
    """Within float32's rounding: five layers of sums over at most 256 terms of the order of the logits."""
    wanted = float64(form(Stage.FOLDED) if of is None else of)(batch)
    bound = 256 * np.finfo(np.float32).eps * np.abs(wanted).max()
    return got.shape == wanted.shape and bool(np.all(np.abs(got - wanted) <= bound))


@every_backend
def test_it_computes_the_network_at_any_batch_size_in_any_order(row: Backend, runner: Runner) -> None:
    for count, first in ((3, 0), (1, 5), (7, 9), (3, 20), (200, 0), (1, 0)):
        batch = images(count, first)
        assert close(infer(runner, {"image": batch})["logits"], batch, network(row)), count


@every_backend
def test_it_says_what_it_is(row: Backend, runner: Runner) -> None:
    assert runner.backend == row.name
    assert (runner.device, runner.provider) == SAYS_OF_ITSELF[row.name]
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


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(InputError, match=r"^unknown backend 'tvm'; there are torch, .*, trt$"):
        backend("tvm")


# What only torch can get wrong


@pytest.mark.parametrize("fails", [False, True])
def test_the_torch_runner_puts_the_number_of_threads_back(fails: bool) -> None:
    before = torch.get_num_threads()
    runner = TorchRunner(bounded(form(Stage.FOLDED)), threads=before + 2)
    assert torch.get_num_threads() == before  # only entering it takes them
    with suppress(ZeroDivisionError), runner:
        assert torch.get_num_threads() == before + 2
        assert 1 / (not fails)
    assert torch.get_num_threads() == before


def test_torch_runners_with_different_threads_may_be_open_together() -> None:
    used: list[int] = []

    class Notes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            used.append(torch.get_num_threads())
            return x

    before = torch.get_num_threads()
    network = TorchNetwork(Notes().eval(), (X,), (Y,))
    with TorchRunner(network, threads=2) as two, TorchRunner(network, threads=3) as three:
        for runner in (two, three, two):
            infer(runner, {"x": np.ones((1, 2), np.float32)})
        assert (facts(two).threads, facts(three).threads) == (2, 3)
    assert used == [2, 3, 2]
    assert torch.get_num_threads() == before


class _Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, -x


X, Y, Z = (TensorSpec(name, (None, 2), "float32") for name in "xyz")


def test_the_torch_runner_gives_each_output_by_name() -> None:
    with TorchRunner(TorchNetwork(_Two().eval(), (X,), (Y, Z)), threads=1) as runner:
        got = infer(runner, {"x": np.ones((1, 2), np.float32)})
    assert {name: array.tolist() for name, array in got.items()} == {"y": [[2, 2]], "z": [[-1, -1]]}


def test_the_torch_runner_works_without_autograd() -> None:
    class Asks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert not torch.is_grad_enabled()
            return x * 2

    with TorchRunner(TorchNetwork(Asks().eval(), (X,), (Y,)), threads=1) as runner:
        infer(runner, {"x": np.ones((1, 2), np.float32)})


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (nn.Linear(2, 2), "the network is in training mode; call .eval() before running it"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).train()),
            "the network is in training mode; call .eval() before running it",
        ),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()).eval(),
            "the network's parameters are float16, float32; expected one of fp32, fp16, bf16",
        ),
        (
            nn.Linear(2, 2).double().eval(),
            "the network's parameters are float64; expected one of fp32, fp16, bf16",
        ),
        (nn.Linear(2, 2, device="meta").eval(), "the network lies on meta; this backend runs on the CPU"),
    ],
    ids=["training", "half in training", "mixed", "float64", "elsewhere"],
)
def test_the_torch_runner_refuses(network: nn.Module, said: str) -> None:
    with pytest.raises(ModelError) as refusal:
        backend("torch").open(TorchNetwork(network, (X,), (Y,)), threads=1)
    assert str(refusal.value) == said


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float32, Precision.FP32), (torch.float16, Precision.FP16), (torch.bfloat16, Precision.BF16)],
    ids=str,
)
def test_the_torch_runner_reads_the_precision_from_the_network(
    dtype: torch.dtype, precision: Precision
) -> None:
    network = TorchNetwork(nn.Linear(2, 2, dtype=dtype).eval(), (X,), (Y,))
    assert TorchRunner(network, threads=1).precision is precision


def test_a_torch_network_that_fails_does_so_in_one_line() -> None:
    broken = TorchNetwork(nn.Linear(3, 2).eval(), (X,), (Y,))
    with TorchRunner(broken, threads=1) as runner:
        runner.load({"x": np.ones((1, 2), np.float32)})
        with pytest.raises(
            ModelError, match=r"^the network does not run: mat1 and mat2 shapes .*$"
        ) as refusal:
            runner.enqueue()
    assert "\n" not in str(refusal.value)


def test_a_torch_network_with_another_number_of_outputs_is_refused() -> None:
    with TorchRunner(TorchNetwork(_Two().eval(), (X,), (Y,)), threads=1) as runner:
        runner.load({"x": np.ones((1, 2), np.float32)})
        runner.enqueue()
        with pytest.raises(ModelError, match=r"^the network gives 2 outputs, not 1$"):
            runner.fetch()


# What only ONNX Runtime can get wrong


def ort(model: onnx.ModelProto, tmp_path: Path, **options: Any) -> OrtRunner:
    pytest.importorskip("onnxruntime", reason="ort: onnxruntime is not installed")
    return OrtRunner(save(model, tmp_path / "m.onnx"), threads=1, **options)


@pytest.mark.parametrize("optimize", [True, False])
def test_ort_computes_the_same_with_and_without_its_own_optimizer(tmp_path: Path, optimize: bool) -> None:
    batch = images(2)
    with ort(onnx.load_model_from_string(onnx_bytes(Stage.FOLDED)), tmp_path, optimize=optimize) as runner:
        assert close(infer(runner, {"image": batch})["logits"], batch)


def test_ort_refuses_weights_that_it_would_compute_with_in_another_precision(tmp_path: Path) -> None:
    """On the CPU it casts them to fp32 without a word."""
    with pytest.raises(
        NotAvailable, match=r"has fp16 weights, and ONNX Runtime would silently compute in fp32"
    ):
        ort(cnn(half=True), tmp_path)


def test_ort_refuses_types_that_nobody_feeds(tmp_path: Path) -> None:
    names = [helper.make_tensor_value_info(n, TensorProto.STRING, ["N"]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", names[:1], names[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(ModelError, match=r"^x is a tensor\(string\), which no runner here feeds$"):
        ort(model, tmp_path)


def test_an_onnx_graph_that_fails_does_so_in_one_line(tmp_path: Path) -> None:
    """A gather beyond the end, which only shows when it runs."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in "xy")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["x", "i"], ["y"], axis=1)],
        "g",
        [x, helper.make_tensor_value_info("i", TensorProto.INT64, [2])],
        [y],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    feeds = {"x": np.ones((1, 2), np.float32), "i": np.array([0, 9])}
    with ort(model, tmp_path) as runner:
        runner.load(feeds)
        with pytest.raises(ModelError, match=r"^ONNX Runtime cannot run the network: ") as refusal:
            runner.enqueue()
        assert "\n" not in str(refusal.value)
        got = infer(runner, {**feeds, "i": np.array([1, 0])})  # and works on with inputs that are right
    assert got["y"].tolist() == [[1.0, 1.0]]
