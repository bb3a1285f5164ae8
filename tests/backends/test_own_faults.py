"""What only one runtime can get wrong: torch's threads and training mode, ONNX Runtime's silent casts."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from bn_deploy.backends import backend
from bn_deploy.backends.base import facts, infer
from bn_deploy.backends.onnxrt import OrtRunner
from bn_deploy.backends.pytorch import TorchNetwork, TorchRunner
from bn_deploy.errors import ModelError, NotAvailable
from bn_deploy.spec import Precision, Stage, TensorSpec
from tests.backends.answers import close, images
from tests.engine.models import cnn, save
from tests.lenets import bounded, float64, form, garments, one_thread, onnx_bytes  # noqa: F401 - a fixture

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
