"""Ten architectures as ONNX files: what is counted by hand is what folds."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import bn_deploy
from bn_deploy.folding.outcome import FoldReport
from tests.architectures import ARCHITECTURES
from tests.architectures.exported import in_double, write
from tests.architectures.numbers import inputs, network
from tests.fold_onnx.graphs import Array, assert_same

each = pytest.mark.parametrize("name", ARCHITECTURES)


@cache
def exported(name: str) -> onnx.ModelProto:
    """The architecture with torch's batch norms; an export takes seconds, however small the network."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write(network(ARCHITECTURES[name]), ARCHITECTURES[name], path)
        return onnx.load_model_from_string(path.read_bytes())


@each
def test_all_that_can_be_folded_is(name: str, tmp_path: Path) -> None:
    row, before = ARCHITECTURES[name], exported(name)
    wanted = {node.name for node in before.graph.node if node.op_type == "BatchNormalization"}
    assert len(wanted) == row.batchnorms
    after, report = folded(before, tmp_path)
    assert (len(report.folded), len(report.kept)) == (row.foldable, len(row.kept)), report
    assert {e.site.batchnorm for e in report.folded} | {e.site.batchnorm for e in report.kept} == wanted
    assert all(entry.reason for entry in report.kept)
    again, second = folded(after, tmp_path)
    assert again == after, "a second fold changes something"
    assert not second.folded


@each
def test_nothing_changes_but_the_rounding(name: str, tmp_path: Path) -> None:
    before = in_double(exported(name))
    exact, _ = folded(before, tmp_path)
    x = inputs(ARCHITECTURES[name], 4).double().numpy()
    assert_same(before, exact, {"x": x})
    # Every number of the float32 file is the exact one, rounded once.
    once = {key: array.astype(np.float32) for key, array in numbers(exact).items()}
    given = numbers(folded(exported(name), tmp_path)[0])
    assert given.keys() == once.keys()
    assert all(np.array_equal(array, once[key]) for key, array in given.items())


def numbers(model: onnx.ModelProto) -> dict[str, Array]:
    """All real initializers."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def folded(model: onnx.ModelProto, folder: Path) -> tuple[onnx.ModelProto, FoldReport]:
    """The model as `fold_onnx` writes it, and the report."""
    (folder / "src.onnx").write_bytes(model.SerializeToString(deterministic=True))
    report = bn_deploy.fold_onnx(folder / "src.onnx", folder / "dst.onnx")
    return onnx.load_model_from_string((folder / "dst.onnx").read_bytes()), report
