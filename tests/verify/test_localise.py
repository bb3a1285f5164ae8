"""The first layer that is off is named; what folding moves on purpose is not."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bn_deploy.backends import backend
from bn_deploy.engine.build import BuildOptions
from bn_deploy.exporting.onnx_file import layer_names
from bn_deploy.folding.modules.driver import fold
from bn_deploy.pipeline import localising
from bn_deploy.pipeline.forms import Forms
from bn_deploy.pipeline.localising import localise
from bn_deploy.precision.formats import half_of
from bn_deploy.precision.half import convert
from bn_deploy.report.plots import plot_layers
from bn_deploy.report.verification import parity_text
from bn_deploy.spec import Precision, Stage
from bn_deploy.verify.layers import cut, last_values, marked, of_torch
from bn_deploy.verify.localise import LayerParity, first_off
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.rerun import in_class, operands
from bn_deploy.verify.tolerance import number_class
from tests.lenets import LENET, form, garments, onnx_bytes
from tests.verify.test_parity import parity

IMAGES = garments().test.images[:10]


def rows(*off: bool) -> list[LayerParity]:
    return [
        LayerParity("onnx", str(i), 3e-6 if o else 1e-6, 1e-6, 1.0, "fp32", "marked")
        for i, o in enumerate(off)
    ]


@pytest.mark.parametrize(
    ("off", "first"),
    [
        ((False, False, False), None),
        ((False, True, True), "1"),
        ((True, True, True), "0"),
        ((True, False, True, True), "2"),  # a batch norm was folded into the first
        ((True, True, False), None),
        ((), None),
    ],
)
def test_the_first_layer_is_that_from_which_on_nothing_agrees(
    off: tuple[bool, ...], first: str | None
) -> None:
    assert first_off(rows(*off)) == first


def test_a_layer_that_gives_no_number_is_off() -> None:
    assert LayerParity("onnx", "0", float("inf"), 1e-6, 1.0, "fp32", "marked").off


def test_layers_are_watched_in_the_order_they_run() -> None:
    seen = of_torch(form(Stage.CONVERTED), IMAGES, torch.float64)
    assert list(seen) == [str(i) for i in range(16)]
    with torch.no_grad():
        logits = copy.deepcopy(form(Stage.CONVERTED)).double()(torch.from_numpy(IMAGES).double()).numpy()
    assert np.array_equal(seen["15"], logits)


def test_names_are_kept_through_export_and_folding() -> None:
    for stage in (Stage.CONVERTED, Stage.FOLDED):
        names = layer_names(form(stage), inputs=LENET.inputs, outputs=LENET.outputs)
        values = last_values(onnx.load_model_from_string(onnx_bytes(stage)), names)
        layers = [str(i) for i in range(16)]
        missing = {"1", "5", "10", "13"} if stage is Stage.FOLDED else set()
        assert [layer for layer in layers if layer in values] == [n for n in layers if n not in missing]
        assert values["15"] == "logits"
        assert values["4"] == "conv2d_1"


def test_a_cut_graph_gives_what_a_marked_one_does() -> None:
    if (reason := backend("ort").why_not()) is not None:
        pytest.skip(f"ort: {reason}")
    import onnxruntime as ort

    model = onnx.load_model_from_string(onnx_bytes(Stage.FOLDED))
    part = cut(model, "avg_pool2d")
    assert [node.op_type for node in part.graph.node] == ["Conv", "Sigmoid", "AveragePool"]
    assert {t.name for t in part.graph.initializer} == {"0.weight", "0.bias"}
    assert [v.name for v in part.graph.output] == ["avg_pool2d"]
    whole = marked(model, ["avg_pool2d", "logits"])
    assert [v.name for v in whole.graph.output] == ["logits", "avg_pool2d"]
    providers = ["CPUExecutionProvider"]
    one, both = (
        ort.InferenceSession(m.SerializeToString(), providers=providers).run(None, {"image": IMAGES})
        for m in (part, whole)
    )
    assert np.array_equal(one[0], both[1])


def test_a_part_that_ends_in_half_gives_float32() -> None:
    """No array of numpy's holds bfloat16."""
    half = half_of(Precision.BF16)
    assert half is not None
    part = cut(convert(onnx.load_model_from_string(onnx_bytes(Stage.FOLDED)), half, {}).proto, "avg_pool2d")
    onnx.checker.check_model(part, full_check=True)
    (output,) = part.graph.output
    assert output.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert part.graph.node[-1].op_type == "Cast"
    assert list(part.graph.node[-1].input) == ["avg_pool2d"]


@pytest.mark.parametrize("name", ["int8", "tf32"])
def test_a_network_whose_layers_are_watched_takes_the_operands_of_its_class(name: str) -> None:
    """As the same network does that was followed; sums may be in another order, which moves a step or two."""
    numbers, network = number_class(name), form(Stage.TRAINED)
    with operands(numbers):
        watched = of_torch(network, IMAGES, torch.float32)["15"]
    followed = in_class(network, numbers, IMAGES.shape[1:])(IMAGES)
    plain = of_torch(network, IMAGES, torch.float32)["15"]
    off = np.abs(plain - followed).max()
    assert off > 1e-4
    assert np.abs(watched - followed).max() < 0.02 * off
    with operands(number_class("fp32")):
        np.testing.assert_array_equal(of_torch(network, IMAGES, torch.float32)["15"], plain)


def looked_into(tmp_path: Path, *, weight: str = "", by: float = 1.0) -> Parity:
    """A LeNet of which the folded ONNX file has one weight tensor off."""
    model = onnx.load_model_from_string(onnx_bytes(Stage.FOLDED))
    for tensor in model.graph.initializer:
        if tensor.name == weight:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), weight))
    onnx.save(model, tmp_path / "folded.onnx")
    report = fold(form(Stage.CONVERTED)).report
    forms = Forms(LENET, "custom", form(Stage.TRAINED), form(Stage.CONVERTED), form(Stage.FOLDED), report)
    compared = parity(1e-6, 1e-6, 1e-6, 1e-2 if weight else 1e-6)
    found = localise(forms, compared, garments().test.images, {Stage.ONNX: tmp_path / "folded.onnx"})
    return dataclasses.replace(compared, layers=found)


@pytest.mark.parametrize("layer", ["0", "9", ""])
def test_the_layer_with_the_fault_is_named(tmp_path: Path, layer: str) -> None:
    if (reason := backend("ort").why_not()) is not None:
        pytest.skip(f"ort: {reason}")
    result = looked_into(tmp_path, weight=f"{layer}.weight" if layer else "", by=1.001)
    assert [result.first_layer(stage) for stage in result.stages] == [None, None, None, layer or None]
    text = parity_text(result)
    said = f"onnx: the first layer that is off is {layer}" if layer else "no layer is off"
    assert said in text
    assert "converted: modules watched" in text
    assert Parity.from_json(result.to_json()) == result
    plot_layers(result.layers, tmp_path / "parity.png")
    assert (tmp_path / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_an_engine_is_cut_after_each_layer_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in for a build copies the part; its runner is ONNX Runtime."""
    if (reason := backend("ort").why_not()) is not None:
        pytest.skip(f"ort: {reason}")
    built: list[int] = []

    def build(source: Path, target: Path, *, options: BuildOptions) -> None:
        built.append(len(onnx.load(source).graph.node))
        shutil.copyfile(source, target)

    monkeypatch.setattr(localising, "build_engine", build)
    monkeypatch.setattr(localising, "backend", lambda _: backend("ort"))
    path = tmp_path / "folded.onnx"
    path.write_bytes(onnx_bytes(Stage.FOLDED))
    forms = Forms(
        LENET,
        "custom",
        form(Stage.TRAINED),
        form(Stage.CONVERTED),
        form(Stage.FOLDED),
        fold(form(Stage.CONVERTED)).report,
    )
    compared = parity(1e-6, 1e-6, 1e-6, 1e-6, 1e-6)
    compared = dataclasses.replace(compared, stages=(compared.stages[0], compared.stages[4]), steps=())
    found = localise(forms, compared, garments().test.images, {Stage.ENGINE: path})
    assert built == list(range(1, 13))  # each part one operator longer
    assert {row.stage for row in found} == {"engine"}
    assert all("graph cut after each layer" in row.how for row in found)
    assert first_off(found) is None
    assert [row.layer for row in found][-1] == "15"
