"""models/lenet-bn: that it is what its card says, and that the main job holds on the real data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bn_deploy.artifact import sha256_file
from bn_deploy.cli import main
from bn_deploy.exporting.onnx_file import inspect
from bn_deploy.pipeline.make import export
from bn_deploy.pipeline.verification import verify
from bn_deploy.run_folder import RunFolder
from bn_deploy.train.checkpoint import load_checkpoint

MODEL = Path(__file__).parent.parent / "models" / "lenet-bn"
CARD = (MODEL / "README.md").read_text(encoding="utf-8")


def test_the_card_holds_the_digests_of_the_files() -> None:
    digests = dict(re.findall(r"\| `([\w.]+)` \| [\d,]+ \| `([0-9a-f]{64})` \|", CARD))
    assert set(digests) == {"checkpoint.safetensors", "model.onnx", "model.folded.onnx"}
    assert digests == {name: sha256_file(MODEL / name) for name in digests}


def test_the_files_belong_together() -> None:
    digest = sha256_file(MODEL / "checkpoint.safetensors")
    for name, batchnorms in (("model.onnx", 4), ("model.folded.onnx", 0)):
        file = inspect(MODEL / name)
        assert file.metadata["bn_deploy.checkpoint_sha256"] == digest
        assert file.metadata["bn_deploy.dataset"] == "fashion-mnist"
        assert file.batchnorms == batchnorms


def test_the_accuracy_is_what_the_recipe_promises() -> None:
    metrics = load_checkpoint(MODEL / "checkpoint.safetensors").metrics
    # Four seeds of this recipe gave 0.873 to 0.889 with re-estimated statistics.
    assert metrics["test_accuracy"] >= 0.87
    assert f"{metrics['test_accuracy'] * 100:.2f} % with the re-estimated" in CARD


def test_it_exports_without_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = str(MODEL / "checkpoint.safetensors")
    assert main(["export", "--fold-bn", "--checkpoint", checkpoint, "--run", str(tmp_path)]) == 0
    assert "batch norms 4 -> 0" in capsys.readouterr().out
    assert inspect(tmp_path / "model.folded.onnx").census == inspect(MODEL / "model.folded.onnx").census


def test_no_file_tells_of_the_machine_that_made_it() -> None:
    for path in MODEL.iterdir():
        content = path.read_bytes()
        for trace in (b"/home/", b"/root/", b"/tmp/", b"site-packages", b"Traceback", b'File "'):
            assert trace not in content, f"{path.name} holds {trace!r}"


@pytest.mark.realdata
def test_the_main_job_holds_on_the_real_data(tmp_path: Path, fashion_mnist_dir: Path) -> None:
    run = RunFolder(tmp_path)
    export(run, checkpoint=MODEL / "checkpoint.safetensors", fold_bn=True)
    parity = verify(run, data_dir=fashion_mnist_dir)
    assert parity.failed is None
    assert parity.images == 10_000
    assert all(step.agree == 10_000 for step in parity.steps)
    assert {stage.stage for stage in parity.stages} >= {"trained", "converted", "folded", "onnx"}
    assert all(stage.accuracy >= 0.87 for stage in parity.stages)
