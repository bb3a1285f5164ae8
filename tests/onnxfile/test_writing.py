"""What is written: one file or two, the same bytes each time, all of it or nothing, and nobody else's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from bn_deploy.errors import InputError, ModelError
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.onnxfile import writing
from tests.onnxfile.models import CHANNELS, apart, model


def results(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(1).standard_normal((2, CHANNELS, 5, 5)).astype(np.float32)
    return np.asarray(session.run(None, {"x": x})[0])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    path = tmp_path / "single" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model().SerializeToString())
    return path


def test_one_file_becomes_one_file_as_protobuf_writes_it(single: Path, tmp_path: Path) -> None:
    fold_onnx(single, tmp_path / "new" / "folded.onnx")
    assert list(content(tmp_path / "new")) == ["folded.onnx"]
    data = (tmp_path / "new" / "folded.onnx").read_bytes()
    assert onnx.load_model_from_string(data).SerializeToString(deterministic=True) == data


def test_two_files_become_two_that_hold_the_same(single: Path, tmp_path: Path) -> None:
    given = content(apart(tmp_path / "apart").parent)
    fold_onnx(tmp_path / "apart" / "model.onnx", tmp_path / "new" / "folded.onnx")
    fold_onnx(single, tmp_path / "folded.onnx")
    assert sorted(content(tmp_path / "new")) == ["folded.onnx", "folded.onnx.data"]
    assert content(tmp_path / "apart") == given
    onnx.checker.check_model(str(tmp_path / "new" / "folded.onnx"), full_check=True)
    whole = onnx.load(tmp_path / "new" / "folded.onnx")
    for tensor in whole.graph.initializer:
        tensor.ClearField("data_location")
    assert whole.SerializeToString(deterministic=True) == (tmp_path / "folded.onnx").read_bytes()
    np.testing.assert_allclose(results(tmp_path / "new" / "folded.onnx"), results(single), atol=1e-5)


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = apart(tmp_path / "apart")
    for name in ("one", "two"):
        fold_onnx(path, tmp_path / name / "folded.onnx")
    assert content(tmp_path / "one") == content(tmp_path / "two")


def test_two_files_may_be_folded_in_place_and_twice(tmp_path: Path) -> None:
    path = apart(tmp_path, location="model.onnx.data")
    before = results(path)
    assert len(fold_onnx(path, path).folded) == 2
    once = content(tmp_path)
    assert sorted(once) == ["model.onnx", "model.onnx.data"]
    np.testing.assert_allclose(results(path), before, atol=1e-5)
    assert not fold_onnx(path, path).folded
    assert content(tmp_path) == once


def test_weights_under_another_name_are_left_where_they_are(tmp_path: Path) -> None:
    path = apart(tmp_path)
    given = (tmp_path / "weights.bin").read_bytes()
    fold_onnx(path, path)
    assert (tmp_path / "weights.bin").read_bytes() == given


def test_what_is_too_large_for_one_file_becomes_two(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold_onnx(single, tmp_path / "one.onnx")
    size = (tmp_path / "one.onnx").stat().st_size
    monkeypatch.setattr(writing, "LARGEST_FILE_BYTES", size)
    fold_onnx(single, tmp_path / "exactly.onnx")
    assert not (tmp_path / "exactly.onnx.data").exists()
    monkeypatch.setattr(writing, "LARGEST_FILE_BYTES", size - 1)
    fold_onnx(single, tmp_path / "two.onnx")
    assert (tmp_path / "two.onnx.data").exists()
    np.testing.assert_array_equal(results(tmp_path / "two.onnx"), results(tmp_path / "one.onnx"))


def test_weights_that_belong_to_nobody_known_are_not_replaced(tmp_path: Path) -> None:
    path = apart(tmp_path)
    (tmp_path / "folded.onnx.data").write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"does not belong to .*folded.onnx; move it away"):
        fold_onnx(path, tmp_path / "folded.onnx")
    (tmp_path / "folded.onnx").write_bytes(model().SerializeToString())  # which keeps its weights itself
    with pytest.raises(InputError, match="does not belong to"):
        fold_onnx(path, tmp_path / "folded.onnx")
    assert (tmp_path / "folded.onnx.data").read_bytes() == b"somebody's"


def test_an_older_result_is_replaced(tmp_path: Path) -> None:
    path = apart(tmp_path)
    for _ in range(2):
        fold_onnx(path, tmp_path / "folded.onnx")
    assert sorted(content(tmp_path)) == ["folded.onnx", "folded.onnx.data", "model.onnx", "weights.bin"]


def test_the_weights_of_the_source_are_not_replaced_by_those_of_another_file(tmp_path: Path) -> None:
    path = apart(tmp_path, location="other.onnx.data")
    (tmp_path / "other.onnx").write_bytes(path.read_bytes())  # two models share one file of weights
    given = content(tmp_path)
    with pytest.raises(InputError, match=r"holds the weights of .*model.onnx; choose another name"):
        fold_onnx(path, tmp_path / "other.onnx")
    assert content(tmp_path) == given


@pytest.mark.parametrize("in_place", [True, False])
def test_a_failure_midway_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_place: bool
) -> None:
    path = apart(tmp_path, location="model.onnx.data")
    given = content(tmp_path)
    written = 0
    tofile = ir.Tensor.tofile

    def full(tensor: ir.Tensor[np.ndarray], file: object) -> None:
        nonlocal written
        written += 1
        if written > 1:
            raise OSError(28, "No space left on device")
        tofile(tensor, file)

    monkeypatch.setattr(ir.Tensor, "tofile", full)
    with pytest.raises(InputError, match=r"cannot write .*: No space left on device"):
        fold_onnx(path, path if in_place else tmp_path / "folded.onnx")
    assert content(tmp_path) == given


def test_what_two_files_cannot_hold_is_refused(
    single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(_: ir.Model) -> writing.Unwritten:
        raise EncodeError("exceeds the limit of a message")

    monkeypatch.setattr(writing.Unwritten, "of", too_large)
    with pytest.raises(ModelError, match="more than 2 GB besides its initializers"):
        fold_onnx(single, tmp_path / "folded.onnx")
