from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from onnx import NodeProto, helper

from bn_deploy.engine import api, driver, support
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.options import BuildOptions
from bn_deploy.errors import InputError, ModelError, NotAvailable
from tests.engine.fake_trt import RTX, VERSIONS, World, make
from tests.engine.models import cnn, half_scales, quantized, save


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("NVIDIA Thing", (8, 9), (12, 8)))


def nameless(nodes: list[NodeProto]) -> list[NodeProto]:
    nodes[1].name = ""
    return nodes


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_a_model_that_the_parser_takes(tmp_path: Path, version: str) -> None:
    told = support.dry_run(save(cnn(), tmp_path / "model.onnx"), trt=make(version))
    assert told.unsupported == ()
    assert told.exit_code == 0
    assert told.nodes == 4


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("version", [*VERSIONS, RTX])
def test_what_it_does_not_take_is_named_as_in_the_file(tmp_path: Path, version: str) -> None:
    path = save(cnn(nodes=nameless), tmp_path / "model.onnx")
    errors: list[dict[str, Any]] = [{"desc": "false", "node": 3, "name": "gemm", "operator": "Gemm"}]
    told = support.dry_run(path, trt=make(version, World(errors=errors, parts=[[0], [2]])))
    assert [vars(node) for node in told.unsupported] == [
        {
            "index": 1,
            "name": "s",
            "operator": "Sigmoid",
            "reason": "this TensorRT has no importer for the operator",
        },
        {"index": 3, "name": "gemm", "operator": "Gemm", "reason": "invalid node"},
    ]
    assert told.exit_code == 1
    assert told.to_json()["unsupported"][1]["name"] == "gemm"


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_wrong_with_no_node_is_told_too(tmp_path: Path, version: str) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    told = support.dry_run(path, trt=make(version, World(errors=[{"desc": "no outputs"}])))
    assert [(node.index, node.name, node.reason) for node in told.unsupported] == [(None, "", "no outputs")]


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(("version", "named"), [("8.5.3.1", ["qx", "dx"]), ("10.16.1.11", [])])
def test_scales_in_half_are_named_where_types_are_weak(
    tmp_path: Path, version: str, named: list[str]
) -> None:
    path = save(half_scales(), tmp_path / "model.onnx")
    told = support.dry_run(path, trt=make(version, World(parts=[list(range(9))])))
    assert [node.name for node in told.unsupported] == named
    assert all("scale is in half precision" in node.reason for node in told.unsupported)


@pytest.mark.usefixtures("_gpu")
def test_a_choice_that_is_not_there_is_told_before_a_build(tmp_path: Path) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="has no choice of compute capabilities"):
        support.dry_run(path, options=BuildOptions(compute_capabilities=("8.9",)), trt=make(VERSIONS[-1]))


def test_where_there_is_no_gpu_and_one_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no driver")
    with pytest.raises(NotAvailable, match="only where there is a GPU"):
        support.dry_run(save(cnn(), tmp_path / "model.onnx"), trt=make(VERSIONS[-1]))


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="is not an ONNX file"):
        support.dry_run(tmp_path / "model.onnx", trt=make(VERSIONS[-1]))


def several(nodes: list[NodeProto]) -> list[NodeProto]:
    foo = helper.make_node("Foo", ["c"], ["s"], name="mystery", domain="unheard.of")
    return [nodes[0], foo, *nodes[2:], helper.make_node("Det", ["image"], ["d"], name="det")]


REAL: dict[str, tuple[Callable[[], Any], list[tuple[str, str]]]] = {
    "fine": (cnn, []),
    "half": (lambda: cnn(half=True), []),
    "quantized": (quantized, []),
    "asymmetric": (lambda: quantized(zero_point=3), [("qx", "Non-zero zero point is not supported")]),
    "several": (lambda: cnn(nodes=several), [("mystery", "no importer"), ("det", "unsupported node")]),
}


@pytest.mark.parametrize("name", REAL)
def test_the_real_parser_of_tensorrt_rtx(tmp_path: Path, name: str) -> None:
    try:
        rtx = api.find("tensorrt_rtx")
    except NotAvailable as reason:
        pytest.skip(str(reason))
    make_model, wanted = REAL[name]
    told = support.dry_run(save(make_model(), tmp_path / "model.onnx"), trt=rtx)
    assert [node.name for node in told.unsupported] == [name for name, _ in wanted]
    for node, (_, words) in zip(told.unsupported, wanted, strict=True):
        assert words in node.reason
