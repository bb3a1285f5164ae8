"""Files that are legal and rare, and what is read, checked and written of them."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import ModelError
from bn_deploy.folding.graph import onnx_file
from bn_deploy.folding.graph.onnx_file import fold_onnx
from tests.fold_onnx.files import IMAGE, bn, judged
from tests.fold_onnx.graphs import Net


def test_a_large_weight_that_others_use_as_it_is(tmp_path: Path) -> None:
    """Its copy is computed when it is written, from the given one."""
    net = Net((2, 24, 6, 6), dtype=np.float32)
    weight = net.normal(24, 24, 1, 1)
    y = bn(net, net.op("Conv", "x", weight), 24)
    model = net.model(net.op("Conv", net.op("Tanh", y), weight))
    (entry,) = judged(model, net.feeds(), tmp_path).folded
    assert entry.note == "with an own copy of c0, which others share"


def test_bfloat16_of_a_version_that_does_not_list_it(tmp_path: Path) -> None:
    """As exporters write it; onnx's shape inference takes it since opset 22 only."""
    net = Net(IMAGE, dtype=np.float32)
    model = net.model(bn(net, net.op("AveragePool", net.conv("x", 4, 4), kernel_shape=[2, 2])))
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(
            numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(16)), tensor.name)
        )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    with pytest.raises(onnx.shape_inference.InferenceError, match="bfloat16"):
        onnx.checker.check_model(model, full_check=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(fold_onnx(path, path).folded) == 1
    after = onnx.load(path)
    assert {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.BFLOAT16}
    assert after.graph.input == model.graph.input
    assert not after.graph.value_info


def test_what_no_runtime_needs_may_be_missing(tmp_path: Path) -> None:
    net = Net(IMAGE, dtype=np.float32)
    model = net.model(bn(net, net.conv("x", 4, 4)))
    model.graph.ClearField("name")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert len(judged(model, net.feeds(), tmp_path).folded) == 1
    assert not onnx.load(tmp_path / "folded.onnx").graph.name
    model.graph.input[0].type.tensor_type.ClearField("shape")
    (entry,) = judged(model, net.feeds(), tmp_path).kept
    assert "the rank of conv0 is not known" in entry.reason


def test_what_is_said_of_a_type_has_still_to_be_true(tmp_path: Path) -> None:
    net = Net(IMAGE, dtype=np.float32)
    model = net.model(bn(net, net.conv("x", 4, 4)))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="is not valid ONNX"):
        fold_onnx(path, path)


def test_an_operator_without_inputs_is_no_branch(tmp_path: Path) -> None:
    net = Net(IMAGE, dtype=np.float32)
    noise = net.op("RandomNormal", shape=[1, 4, 6, 6], dtype=TensorProto.FLOAT, seed=1.0)
    nothing = net.op("Mul", noise, net.const(0.0))
    y = bn(net, net.op("Add", net.conv("x", 4, 4), nothing))
    report = judged(
        net.model(net.op("Add", noise, net.op("Sub", y, noise))), net.feeds(), tmp_path, merge_branches=True
    )
    assert len(report.kept) == 1


def test_the_types_of_weights_are_not_said_twice(tmp_path: Path) -> None:
    net = Net(IMAGE, dtype=np.float32)
    model = onnx.shape_inference.infer_shapes(net.model(net.op("Tanh", bn(net, net.conv("x", 4, 4)))))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    fold_onnx(path, path)
    assert [value.name for value in onnx.load(path).graph.value_info] == ["conv0"]


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(
    enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert not gc.isenabled()
        raise RuntimeError("midway")

    net = Net(IMAGE, dtype=np.float32)
    path = tmp_path / "model.onnx"
    path.write_bytes(net.model(bn(net, net.conv("x", 4, 4))).SerializeToString())
    monkeypatch.setattr(onnx_file, "fold_model", fails)
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(RuntimeError, match="midway"):
            fold_onnx(path, path)
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
