from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from bn_deploy.cli import main
from bn_deploy.engine import api, driver, layers
from bn_deploy.engine.build import build
from bn_deploy.engine.driver import Gpu
from bn_deploy.errors import CheckpointError, InputError, ModelError
from bn_deploy.inspecting.inspection import inspect_file
from bn_deploy.report.inspection import inspection_text
from bn_deploy.spec import Precision
from tests.backends.fake_engine import VERSION, Engine
from tests.backends.fake_engine import make as make_runtime
from tests.backends.trt_place import KNOWN, PLAN
from tests.engine.fake_trt import make
from tests.engine.models import cnn, quantized, save
from tests.engine.test_timing_cache import GPU


def told(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(json.dumps(inspect_file(path).to_json()))
    return facts


def test_an_onnx_file(tmp_path: Path) -> None:
    facts = told(save(cnn(), tmp_path / "model.onnx"))
    assert facts["kind"] == "onnx"
    assert facts["totals"]["parameters"] == 4 * 9 + 4 + 144 * 5 + 5
    assert facts["totals"]["macs"] == 4 * 36 * 9 + 144 * 5
    assert facts["rows"][0] == {
        "name": "conv",
        "operator": "Conv",
        "format": "fp32",
        "shape": [1, 4, 6, 6],
        "parameters": 40,
        "macs": 1296,
    }
    assert facts["inputs"] == [{"name": "image", "shape": [None, 1, 8, 8], "dtype": "float32"}]
    text = inspection_text(facts)
    assert "macs: 2,016" in text
    assert "conv" in text


def test_the_formats_of_a_quantised_file(tmp_path: Path) -> None:
    totals = told(save(quantized(half=True), tmp_path / "model.onnx"))["totals"]
    assert totals["macs_by_format"] == {"int8": 1296}
    assert totals["operators_by_format"] == {"fp16": 1, "int8": 1}
    assert totals["conversions"]["DequantizeLinear"] == 2


def test_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    beside = {"bn_deploy": '{"model": "lenet"}', "note": "by hand"}
    save_file({"w": np.zeros((3, 4), np.float16), "b": np.zeros(3, np.float32)}, path, beside)
    facts = told(path)
    assert facts["totals"] == {"tensors": 2, "parameters": 15}
    assert facts["origin"] == {"model": "lenet", "note": "by hand"}
    assert {"name": "w", "dtype": "F16", "shape": [3, 4], "parameters": 12} in facts["rows"]
    assert "3 x 4" in inspection_text(facts)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    from bn_deploy.engine.build import BuildOptions

    path = save(cnn(), tmp_path / "model.onnx")
    options = BuildOptions(timing_cache=False)
    return build(path, tmp_path / "model.plan", options=options, trt=make("11.4.0.106")).plan_path


def test_a_plan_without_a_gpu_tells_what_its_side_car_says(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no driver")
    facts = told(plan)
    assert facts["totals"]["precision"] == "fp32"
    assert facts["totals"]["profiles"] == ["1:64:256"]
    assert facts["totals"]["layers"] == {"fp32": 1}
    assert facts["rows"] == []
    assert facts["notes"] == ["the engine's layers cannot be listed here: no driver"]
    text = inspection_text(facts)
    assert "not available: compute_capabilities\n" in text
    assert "profiles: 1:64:256\n" in text


def test_a_plan_for_another_machine_says_so(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("Older", (7, 5), (12, 8)))
    monkeypatch.setattr(api, "find", lambda _: make("11.4.0.106"))
    assert "was built for the compute capabilities 8.9" in told(plan)["notes"][0]


def test_a_plan_on_its_gpu_lists_its_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bn_deploy.engine import sidecar

    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    monkeypatch.setattr(api, "find", lambda _: make_runtime(Engine(), VERSION))
    path = tmp_path / "model.plan"
    path.write_bytes(PLAN)
    sidecar.write(path, KNOWN)
    facts = told(path)
    assert [row["precision"] for row in facts["rows"]] == ["fp32"]
    assert facts["notes"] == ["the engine tells only names; build it with --detailed for more"]


RECORDS = {
    "Layers": [
        {
            "Name": "/conv1/Conv + /relu/Relu",
            "LayerType": "CaskConvolution",
            "Outputs": [{"Name": "r", "Dimensions": [-1, 4, 6, 6], "Format/Datatype": "Half"}],
            "TacticName": "sm80_xmma_fprop",
            "Metadata": "[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu [0]]",
        },
        "only a name",
    ]
}


def test_an_engines_layers_are_mapped_back_to_onnx_nodes() -> None:
    fused, bare = layers.of_inspection(json.dumps(RECORDS))
    assert fused.nodes == ("/conv1/Conv", "/relu/Relu [0]")
    assert (fused.kind, fused.tactic, fused.precision) == ("CaskConvolution", "sm80_xmma_fprop", "fp16")
    assert fused.shape == (-1, 4, 6, 6)
    assert (bare.name, bare.kind, bare.nodes) == ("only a name", "", ())
    assert layers.of_inspection("nonsense") == ()


@pytest.mark.parametrize(
    ("name", "content", "error", "reason"),
    [
        ("a.onnx", b"no model", ModelError, "is not an ONNX file"),
        ("a.onnx", b"", ModelError, "is not an ONNX file"),
        ("a.safetensors", b"none", CheckpointError, "is not a safetensors file"),
        ("a.plan", b"plan", InputError, "has no side-car"),
        ("a.txt", b"text", InputError, "is of no known kind"),
        ("a.onnx", None, InputError, "No such file"),
        ("a.txt", None, InputError, "there is no file"),
    ],
)
def test_what_cannot_be_looked_into(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception], reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=reason):
        inspect_file(tmp_path / name)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(cnn(), tmp_path / "model.onnx")
    assert main(["inspect", str(path)]) == 0
    assert "sigmoid" in capsys.readouterr().out
    assert main(["inspect", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["operators"] == 4
    assert main(["inspect", str(tmp_path / "none.onnx")]) == 2
    assert Precision.FP32.value in json.dumps(told(path))
