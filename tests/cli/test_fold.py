"""`bn-deploy fold`: the report, --strict, and that a wrong result never gets its name."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from bn_deploy.cli import main
from bn_deploy.exporting.onnx_file import inspect
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.pipeline import file

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


def test_a_wrong_fold_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"what was there")

    def wrong(src: Path, dst: Path) -> object:
        report = fold_onnx(src, dst)
        model = onnx.load(dst)
        weight = model.graph.initializer[0]
        array = onnx.numpy_helper.to_array(weight) * 1.01
        weight.CopyFrom(onnx.numpy_helper.from_array(array.astype("float32"), weight.name))
        onnx.save(model, dst)
        return report

    monkeypatch.setattr(file, "fold_onnx", wrong)
    assert main(["fold", str(MODEL), str(out)]) == 1
    assert "changed what it computes" in capsys.readouterr().err
    assert out.read_bytes() == b"what was there"
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]
    assert main(["fold", str(MODEL), str(out), "--no-check"]) == 0


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
