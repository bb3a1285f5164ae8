"""`bn-deploy export --fold-bn`: the two files are compared before the second one gets its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from bn_deploy.cli import main
from bn_deploy.pipeline import make
from bn_deploy.pipeline.forms import Forms, forms_of
from bn_deploy.train.checkpoint import Checkpoint


@pytest.fixture
def copy(run_dir: Path, tmp_path: Path) -> Path:
    shutil.copytree(run_dir, tmp_path / "run")
    return tmp_path / "run"


def wrong(checkpoint: Checkpoint) -> Forms:
    """The forms of the network; one weight of the folded one is off by 1 %."""
    forms = forms_of(checkpoint)
    with torch.no_grad():
        next(forms.folded.parameters()).view(-1)[0] *= 1.01
    return forms


def test_it_says_what_it_compared(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--fold-bn", "--run", str(copy)]) == 0
    assert "checked on 8 random and boundary inputs" in capsys.readouterr().out.splitlines()[-1]
    assert main(["export", "--fold-bn", "--run", str(copy), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["parity"]["rms"] <= 2 * value["parity"]["rms_own"]
    assert value["folded"]["path"] == str(copy / "model.folded.onnx")


def test_a_wrong_fold_is_not_written(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (copy / "model.folded.onnx").read_bytes()
    monkeypatch.setattr(make, "forms_of", wrong)
    assert main(["export", "--fold-bn", "--run", str(copy)]) == 1
    said = capsys.readouterr().err
    assert "the folded network does not compute the same" in said
    assert said.count("\n") == 1
    assert (copy / "model.folded.onnx").read_bytes() == before
    assert not list(copy.glob(".*"))


def test_no_check_writes_it_unchecked(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "forms_of", wrong)
    assert main(["export", "--fold-bn", "--no-check", "--run", str(copy)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "not checked"


def test_what_is_not_folded_is_not_called_unchecked(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--run", str(copy)]) == 0
    assert "checked" not in capsys.readouterr().out


def test_a_precision_is_written_beside_the_fp32_file_and_explained(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ["export", "--fold-bn", "--run", str(copy), "--precision", "int8", "--calibration-images", "40"]
    assert main(wanted) == 0
    said = capsys.readouterr().out
    assert f"{copy / 'model.folded.int8.onnx'}: int8\n" in said
    assert "\nint8 " in said
    assert "100.0%" in said
    assert "from 40 training images" in said
    assert main([*wanted, "--json"]) == 0
    value = json.loads(capsys.readouterr().out)["typed"]
    assert value["path"] == str(copy / "model.folded.int8.onnx")
    assert value["dtypes"]["precision"] == "int8"
    assert value["calibration"]["images"] == 40


def test_a_precision_needs_the_folded_network(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--run", str(copy), "--precision", "fp16"]) == 2
    assert "give --fold-bn too" in capsys.readouterr().err


def test_more_calibration_images_than_there_are_is_one_line(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--precision", "fp16", "--calibration-images", "1000000"]
    assert main(["export", "--fold-bn", "--run", str(copy), *arguments]) == 2
    said = capsys.readouterr().err
    assert "calibrating on 1,000,000 is not possible" in said
    assert said.count("\n") == 1
