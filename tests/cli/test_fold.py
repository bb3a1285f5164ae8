"""`bn-deploy fold`: the report, --strict, and that a wrong result never gets its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from bn_deploy.cli import main
from bn_deploy.exporting.onnx_file import inspect
from bn_deploy.folding.graph import onnx_file
from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.outcome import FoldReport

MODEL = Path(__file__).parents[2] / "models" / "lenet-bn" / "model.onnx"


def test_it_folds_and_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.onnx"
    assert main(["fold", str(MODEL), str(out), "--strict"]) == 0
    assert "batch norms 4 -> 0" in capsys.readouterr().out
    assert inspect(out).batchnorms == 0
    assert inspect(out).inputs == inspect(MODEL).inputs
    assert inspect(out).metadata == inspect(MODEL).metadata


def test_json_holds_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fold", str(MODEL), str(tmp_path / "out.onnx"), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert len(value["folds"]["folded"]) == 4
    assert value["parity"]["rms"] <= 2 * value["parity"]["rms_own"]


def test_strict_is_exit_1_if_a_batch_norm_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = onnx.load(MODEL)
    first = next(node for node in source.graph.node if node.op_type == "BatchNormalization")
    source.graph.output.append(onnx.helper.make_empty_tensor_value_info(first.input[0]))
    model = onnx.shape_inference.infer_shapes(source)
    known = {value.name: value for value in model.graph.value_info}
    model.graph.output[-1].CopyFrom(known[first.input[0]])
    onnx.save(model, tmp_path / "shown.onnx")
    where = [str(tmp_path / "shown.onnx"), str(tmp_path / "out.onnx")]
    assert main(["fold", *where]) == 0
    assert "batch norms 4 -> 1" in capsys.readouterr().out
    assert main(["fold", *where, "--strict"]) == 1


def wrong(model: ir.Model, **options: Any) -> FoldReport:
    """Folds, and then scales one weight by 1 %."""
    report = fold_model(model, **options)
    value = next(iter(model.graph.initializers.values()))
    assert value.const_value is not None
    value.const_value = ir.Tensor((value.const_value.numpy() * 1.01).astype("float32"), name=value.name)
    return report


def test_a_wrong_fold_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what was there")
    monkeypatch.setattr(onnx_file, "fold_model", wrong)
    assert main(["fold", str(MODEL), str(out)]) == 1
    assert "does not compute the same" in capsys.readouterr().err
    assert out.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert main(["fold", str(MODEL), str(out), "--no-check"]) == 0
    assert "not checked" in capsys.readouterr().out


def test_the_check_says_what_it_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fold", str(MODEL), str(tmp_path / "out.onnx")]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(
        "checked on 8 random and boundary inputs, in batches of 1 and 7, by ONNX's reference implementation, "
        "both in float64: relative difference "
    )


def test_what_cannot_be_checked_is_not_written_without_being_told_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(MODEL)
    model.opset_import.append(onnx.helper.make_opsetid("some.where", 1))
    node = onnx.helper.make_node("Special", [model.graph.output[0].name], ["special"], domain="some.where")
    model.graph.node.append(node)
    model.graph.output[0].name = "special"
    onnx.save(model, tmp_path / "in.onnx")
    where = [str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")]
    assert main(["fold", *where]) == 4
    said = capsys.readouterr().err
    assert "in.onnx folded was not checked: ONNX's reference implementation does not run Special" in said
    assert "--no-check does without" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
    assert main(["fold", *where, "--no-check"]) == 0
    assert (tmp_path / "out.onnx").exists()


def test_weights_beside_the_file_go_beside_the_result(tmp_path: Path) -> None:
    source = tmp_path / "in.onnx"
    onnx.save(onnx.load(MODEL), source, save_as_external_data=True, location="in.onnx.data")
    assert main(["fold", str(source), str(source)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.onnx", "in.onnx.data"]
    assert not [node for node in onnx.load(source).graph.node if node.op_type == "BatchNormalization"]


@pytest.mark.parametrize("content", [b"", b"no model", None])
def test_what_is_no_onnx_file_is_refused(
    content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in.onnx"
    if content is not None:
        source.write_bytes(content)
    assert main(["fold", str(source), str(tmp_path / "out.onnx")]) == 2
    captured = capsys.readouterr().err
    assert "in.onnx" in captured
    assert captured.count("\n") == 1
    assert not (tmp_path / "out.onnx").exists()
