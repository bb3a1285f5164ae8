"""Files in, files out: what is kept, what is refused, and the textbook LeNet as it is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from bn_deploy.batchnorm.convert import convert
from bn_deploy.errors import InputError, ModelError
from bn_deploy.exporting.onnx_file import export
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.folding.modules.driver import fold
from tests.fold_onnx.graphs import Net, assert_same, census
from tests.lenets import LENET, garments, hard, trained


def simple() -> tuple[Net, onnx.ModelProto]:
    net = Net(("N", 4, 6, 6))
    y = net.op("Tanh", net.bn(net.conv("x", 4, 8), 8))
    model = net.model(y)
    model.producer_name, model.doc_string, model.model_version = "somebody", "a note", 7
    model.graph.name = "its name"
    model.metadata_props.append(onnx.StringStringEntryProto(key="licence", value="free"))
    return net, model


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(simple()[1].SerializeToString())
    return path


def test_what_is_not_concerned_is_kept(source: Path, tmp_path: Path) -> None:
    net, before = simple()
    given = source.read_bytes()
    report = fold_onnx(source, tmp_path / "new" / "folded.onnx")
    assert len(report.folded) == 1
    assert source.read_bytes() == given
    after = onnx.load(tmp_path / "new" / "folded.onnx")
    onnx.checker.check_model(after, full_check=True)
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert after.metadata_props == before.metadata_props
    assert after.opset_import == before.opset_import
    assert after.ir_version == before.ir_version
    assert (after.producer_name, after.doc_string, after.model_version) == ("somebody", "a note", 7)
    assert after.graph.name == "its name"
    assert [node.name for node in after.graph.node] == ["n_conv0", "n_tanh2"]
    assert after.graph.node[0].output == before.graph.node[0].output
    assert_same(before, after, net.feeds())


def test_a_file_may_be_folded_in_place_and_twice(source: Path) -> None:
    fold_onnx(source, source)
    once = source.read_bytes()
    assert not fold_onnx(source, source).folded
    assert source.read_bytes() == once


def test_unnamed_nodes_go_by_their_outputs(tmp_path: Path) -> None:
    _, model = simple()
    for node in model.graph.node:
        node.name = ""
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    (entry,) = fold_onnx(path, path).folded
    assert str(entry.site) == "conv0 -> batchnormalization1"
    assert [node.name for node in onnx.load(path).graph.node] == ["", ""]


def test_a_batch_norm_whose_result_is_the_output_leaves_its_name(tmp_path: Path) -> None:
    net = Net(("N", 4, 6, 6))
    path = tmp_path / "model.onnx"
    path.write_bytes(net.model(net.bn(net.conv("x", 4, 8), 8)).SerializeToString())
    fold_onnx(path, path)
    model = onnx.load(path)
    assert [value.name for value in model.graph.output] == ["batchnormalization1"]
    assert [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim] == [
        "N",
        8,
        6,
        6,
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no ONNX file"),
        (b"", "is not an ONNX file: it holds no graph"),
        (b"not a model" * 9, "is not an ONNX file"),
    ],
)
def test_what_is_no_onnx_file(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path, target = tmp_path / "model.onnx", tmp_path / "folded.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=reason) as caught:
        fold_onnx(path, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_a_folder_is_no_file(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ModelError, match="is a folder"):
        fold_onnx(tmp_path, tmp_path / "folded.onnx")
    with pytest.raises(InputError, match="is a folder"):
        fold_onnx(source, tmp_path)


def test_an_invalid_model(tmp_path: Path) -> None:
    _, model = simple()
    model.graph.node[2].input[0] = "nowhere"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="is not valid ONNX"):
        fold_onnx(path, path)


@pytest.mark.parametrize("home", ["the graph", "a node"])
def test_sparse_weights_are_refused(tmp_path: Path, home: str) -> None:
    path = tmp_path / "model.onnx"
    _, model = simple()
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = helper.make_sparse_tensor(values, indices, [3])
    if home == "the graph":
        model.graph.sparse_initializer.append(sparse)
    else:
        model.graph.node.insert(0, helper.make_node("Constant", [], ["s"], sparse_value=sparse))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="holds sparse weights, which cannot be folded; store them dense"):
        fold_onnx(path, path)


def test_training_information_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _, model = simple()
    model.training_info.add()
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="training information"):
        fold_onnx(path, path)


@pytest.mark.parametrize("network", [trained(), hard(1)], ids=["trained", "hard"])
def test_the_textbook_lenet_folds_completely_as_published(network: torch.nn.Module, tmp_path: Path) -> None:
    raw, ours, theirs = tmp_path / "raw.onnx", tmp_path / "folded.onnx", tmp_path / "modules.onnx"
    export(network, raw, inputs=LENET.inputs, outputs=LENET.outputs, metadata={})
    report = fold_onnx(raw, ours)
    assert [entry.rule for entry in report.folded] == ["conv-bn", "conv-bn", "gemm-bn", "gemm-bn"]
    assert not report.kept
    by_modules = fold(convert(network)).module
    export(by_modules, theirs, inputs=LENET.inputs, outputs=LENET.outputs, metadata={}, batchnorms=0)
    assert census(onnx.load(ours)) == census(onnx.load(theirs))
    images = garments().test.images[:32]
    outputs = []
    for path in (ours, theirs):
        session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, {LENET.inputs[0].name: images})[0])
    # Both round the same float64 weights once; the exporter may order the sums in another way.
    assert np.abs(outputs[0] - outputs[1]).max() <= 64 * np.finfo(np.float32).eps * np.abs(outputs[0]).max()
