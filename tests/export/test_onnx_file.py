from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from google.protobuf.message import Message  # type: ignore[import-untyped]  # onnx's own dependency
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from bn_deploy.backends.base import Array
from bn_deploy.exporting.onnx_file import OPSET, export, inspect
from bn_deploy.spec import Stage, TensorSpec
from tests.export.small import small, write
from tests.lenets import LENET, float64, form, garments, onnx_bytes

STAGES = (Stage.CONVERTED, Stage.FOLDED)
LAYERS = {"Conv": 2, "Sigmoid": 4, "AveragePool": 2, "Gemm": 3}


def written(tmp_path: Path, stage: Stage = Stage.FOLDED) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_bytes(stage))
    return path


def proto(stage: Stage) -> onnx.ModelProto:
    return onnx.load_model_from_string(onnx_bytes(stage))


def evaluate(model: onnx.ModelProto, feeds: dict[str, Array]) -> Array:
    """The only output, by onnx's own evaluator, which shares no code with torch or ONNX Runtime."""
    (result,) = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.parametrize("stage", STAGES)
def test_the_graph_has_the_networks_operators_and_no_other(tmp_path: Path, stage: Stage) -> None:
    census = inspect(written(tmp_path, stage)).census
    flatten = {name: census.pop(name) for name in ("Reshape", "Flatten") if name in census}
    assert sum(flatten.values()) == 1
    assert census == (LAYERS if stage is Stage.FOLDED else {**LAYERS, "BatchNormalization": 4})


@pytest.mark.parametrize("stage", STAGES)
def test_the_file_says_what_goes_in_and_out_and_where_it_is_from(tmp_path: Path, stage: Stage) -> None:
    path = written(tmp_path, stage)
    summary = inspect(path)
    assert summary.path == path
    assert [str(spec) for spec in summary.inputs] == ["image float32 (N x 1 x 28 x 28)"]
    assert [str(spec) for spec in summary.outputs] == ["logits float32 (N x 10)"]
    assert summary.batchnorms == (0 if stage is Stage.FOLDED else 4)
    assert summary.metadata == {"bn_deploy.version": "1.2.3", "bn_deploy.model": "lenet"}
    model = proto(stage)
    assert (model.producer_name, model.producer_version) == ("bn-deploy", "1.2.3")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_graph_computes_what_the_network_does(stage: Stage, batch: int) -> None:
    images = garments().test.images[:batch]
    logits = evaluate(proto(stage), {"image": images})
    exact = float64(form(stage))(images)
    assert logits.shape == (batch, 10)
    # Five layers of float32 sums over at most 256 terms, each of the order of the logits.
    assert np.abs(logits - exact).max() <= 256 * np.finfo(np.float32).eps * np.abs(exact).max()


@pytest.mark.parametrize("stage", STAGES)
def test_the_file_says_nothing_of_the_machine_that_wrote_it(stage: Stage) -> None:
    data = onnx_bytes(stage)
    home = os.path.expanduser("~").encode()  # noqa: PTH111 - the text is wanted
    here = str(Path(__file__).parents[2]).encode()
    for trace in (b'File "', b".py", b"Traceback", b"site-packages", b"torch", b"/tmp", home, here):
        assert trace not in data, trace


@pytest.mark.parametrize("stage", STAGES)
def test_only_the_model_itself_carries_remarks(stage: Stage) -> None:
    """Everywhere in the file, down to the types of values."""
    remarks = []
    for path, message in _walk(proto(stage), "model"):
        for field, _ in message.ListFields():
            if field.name == "doc_string" or (field.name == "metadata_props" and path != "model"):
                remarks.append(f"{path}.{field.name}")
    assert not remarks


def _walk(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, message
    for field, value in message.ListFields():
        for item in value if hasattr(value, "append") else [value]:
            if isinstance(item, Message):
                yield from _walk(item, f"{path}.{field.name}")


def test_the_walk_reaches_everything() -> None:
    """Otherwise the test above could not fail."""
    model = proto(Stage.FOLDED)
    model.graph.node[3].metadata_props.add(key="trace", value="secret")
    model.graph.input[0].type.denotation = "x"
    found = {path for path, _ in _walk(model, "model")}
    assert {"model.graph.node.metadata_props", "model.graph.input.type.tensor_type.shape.dim"} <= found
    assert "model.graph.initializer" in found


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    row = {"inputs": LENET.inputs, "outputs": LENET.outputs}
    metadata = {"bn_deploy.model": "lenet", "bn_deploy.version": "1.2.3"}  # in another order than first
    export(form(Stage.FOLDED), tmp_path / "again.onnx", metadata=metadata, **row)  # type: ignore[arg-type]
    assert (tmp_path / "again.onnx").read_bytes() == onnx_bytes(Stage.FOLDED)


def test_another_process_writes_the_same_bytes() -> None:
    """With another hash seed, so that no order of a set or a dict can hide."""
    code = (
        "import hashlib; from tests.lenets import Stage, onnx_bytes;"
        "print(hashlib.sha256(onnx_bytes(Stage.CONVERTED)).hexdigest())"
    )
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == hashlib.sha256(onnx_bytes(Stage.CONVERTED)).hexdigest()


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, momentum=1.0),
        nn.BatchNorm2d(3, affine=False),
        nn.BatchNorm2d(3, eps=0.5),
    ],
    ids=["cumulative average", "momentum 1", "no scale and shift", "large eps"],
)
def test_a_batch_norm_is_exported_as_it_works_in_eval_mode(tmp_path: Path, layer: nn.BatchNorm2d) -> None:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([0.25, 4.0, 1.0]))
    network = small(layer)
    summary = write(network, tmp_path / "m.onnx", batchnorms=1)
    assert summary.census == {"Conv": 1, "BatchNormalization": 1}
    model = onnx.load(tmp_path / "m.onnx")
    modes = [a.i for node in model.graph.node for a in node.attribute if a.name == "training_mode"]
    assert not any(modes)
    x = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
    y = evaluate(model, {"x": x})
    with torch.no_grad():
        np.testing.assert_allclose(y, network(torch.from_numpy(x)).numpy(), rtol=1e-4, atol=1e-5)


def test_any_number_of_arguments(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, *others: Tensor) -> Tensor:
            return sum(others, start=x)

    inputs = [TensorSpec(name, (None, 3, 8, 8), "float32") for name in ("a", "b", "c")]
    result = write(Sum().eval(), tmp_path / "sum.onnx", inputs=inputs)
    assert (result.census, list(result.inputs)) == ({"Add": 2}, inputs)


def test_dropout_leaves_nothing(tmp_path: Path) -> None:
    assert write(small(nn.Dropout(0.5)), tmp_path / "m.onnx").census == {"Conv": 1}


class _Conditional(nn.Module):
    """A batch norm inside one of the graphs inside an If."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.cond(x.sum() > 0, self.norm, torch.neg, (x,))
        return result


def test_operators_in_inner_graphs_count(tmp_path: Path) -> None:
    summary = write(_Conditional().eval(), tmp_path / "m.onnx", batchnorms=1)
    assert summary.batchnorms == 1
    assert inspect(tmp_path / "m.onnx").census == summary.census
    for path, message in _walk(onnx.load(tmp_path / "m.onnx"), "model"):
        assert not getattr(message, "doc_string", "")
        assert path == "model" or not len(getattr(message, "metadata_props", ())), path


def test_operators_in_functions_count(tmp_path: Path) -> None:
    node = helper.make_node("BatchNormalization", ["x", "s", "s", "s", "s"], ["y"])
    function = helper.make_function("local", "norm", ["x", "s"], ["y"], [node], [helper.make_opsetid("", 18)])
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in "xy"]
    graph = helper.make_graph(
        [helper.make_node("norm", ["x", "s"], ["y"], domain="local")],
        "g",
        value[:1],
        value[1:],
        [numpy_helper.from_array(np.ones(3, np.float32), "s")],
    )
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=10)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert inspect(tmp_path / "m.onnx").batchnorms == 1
