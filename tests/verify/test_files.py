"""Any two models with the same boundary are compared, and nothing else is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array
from bn_deploy.errors import CheckFailed, InputError, ModelError
from bn_deploy.pipeline import two_files
from bn_deploy.pipeline.two_files import verify_files
from bn_deploy.spec import TensorSpec
from bn_deploy.verify.files import random_feeds, read_feeds, rows_of
from bn_deploy.verify.parity import Limits

GENERATOR = np.random.default_rng(4)
WEIGHT = GENERATOR.standard_normal((6, 5)).astype(np.float32)
BIAS = GENERATOR.standard_normal(5).astype(np.float32)

pytestmark = pytest.mark.skipif((reason := backend("ort").why_not()) is not None, reason=f"ort: {reason}")


def written(
    path: Path,
    weight: Array = WEIGHT,
    bias: Array = BIAS,
    *,
    batch: Any = "n",
    name: str = "x",
    nodes: list[onnx.NodeProto] | None = None,
) -> Path:
    """x (batch, 6) -> y (batch, 5), one matrix product and a bias, then a sigmoid."""
    made = helper.make_graph(
        nodes
        or [
            helper.make_node("MatMul", [name, "w"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["a"]),
            helper.make_node("Sigmoid", ["a"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def gemm() -> list[onnx.NodeProto]:
    return [helper.make_node("Gemm", ["x", "w", "b"], ["a"]), helper.make_node("Sigmoid", ["a"], ["y"])]


@pytest.mark.parametrize("batch", ["n", 1, 3])
def test_the_same_function_written_otherwise_passes(tmp_path: Path, batch: Any) -> None:
    before = written(tmp_path / "a.onnx", batch=batch)
    after = written(tmp_path / "b.onnx", batch=batch, nodes=gemm())
    parity = verify_files(before, after)
    assert parity.failed is None
    assert [stage.stage for stage in parity.stages] == ["before", "after"]
    assert parity.stages[0].rms > 0  # judged in float64, not by itself
    assert set(parity.digests) == {str(before), str(after)}


FAULTS: dict[str, Callable[[Path], Path]] = {
    "one weight off by 1 %": lambda p: written(
        p, np.where(np.arange(30).reshape(6, 5) == 7, WEIGHT * 1.01, WEIGHT)
    ),
    "bias dropped": lambda p: written(p, bias=BIAS * 0),
    "scale off by 0.01 %": lambda p: written(p, WEIGHT * np.float32(1.0001)),
    "columns swapped": lambda p: written(p, WEIGHT[:, [1, 0, 2, 3, 4]]),
    "NaN": lambda p: written(p, bias=BIAS * np.float32("nan")),
    "batch statistics": lambda p: written(
        p,
        nodes=[
            helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0]))),
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"]),
            helper.make_node("Sub", ["x", "mean"], ["c"]),
            helper.make_node("Gemm", ["c", "w", "b"], ["a"]),
            helper.make_node("Sigmoid", ["a"], ["y"]),
        ],
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_seeded_fault_does_not_pass(tmp_path: Path, fault: str) -> None:
    parity = verify_files(written(tmp_path / "a.onnx"), FAULTS[fault](tmp_path / "b.onnx"))
    assert parity.failed == "before/after"
    assert parity.exit_code == 1


def test_the_first_file_is_judged_too(tmp_path: Path) -> None:
    nan = FAULTS["NaN"](tmp_path / "a.onnx")
    with pytest.raises(CheckFailed, match="the before network itself gives NaN"):
        verify_files(nan, written(tmp_path / "b.onnx"))


def test_inputs_are_taken_from_a_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", x=GENERATOR.standard_normal((10, 6)))
    before, after = written(tmp_path / "a.onnx"), written(tmp_path / "b.onnx")
    parity = verify_files(before, after, inputs=tmp_path / "inputs.npz", limits=Limits(max_abs=1.0))
    assert parity.images == 10
    assert parity.dataset == str(tmp_path / "inputs.npz")
    assert parity.limits.max_abs == 1.0


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (lambda path: path.write_bytes(b"no archive"), "is not a .npz file"),
        (lambda path: np.savez(path, z=np.ones(3)), "has no array called x; the models take x float32"),
        (lambda path: np.savez(path, x=np.array([{}], dtype=object)), "is not a .npz file"),
        (lambda path: np.savez(path, x=np.ones((0, 6))), "the inputs have 0 rows"),
        (lambda path: np.savez(path, x=np.ones((4, 7))), "was given the shape 1 x 7"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    tmp_path: Path, save: Callable[[Path], object], reason: str
) -> None:
    path = tmp_path / "inputs.npz"
    save(path)
    with pytest.raises(InputError, match=reason):
        verify_files(written(tmp_path / "a.onnx"), written(tmp_path / "b.onnx"), inputs=path)


def test_models_with_other_boundaries_are_refused(tmp_path: Path) -> None:
    other = written(tmp_path / "b.onnx", name="image")
    with pytest.raises(ModelError, match=r"cannot be compared: the inputs are x .* and image"):
        verify_files(written(tmp_path / "a.onnx"), other)


@pytest.mark.parametrize("names", [("a.plan", "b.onnx"), ("a.onnx", "b.txt")])
def test_only_models_are_compared(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"give MODEL\.onnx and MODEL\.onnx or MODEL\.plan"):
        verify_files(tmp_path / names[0], tmp_path / names[1])


def test_random_inputs_are_always_the_same_and_of_the_asked_type() -> None:
    specs = (TensorSpec("x", (None, 3), "float32"), TensorSpec("i", (None,), "int64"))
    one, other = random_feeds(specs), random_feeds(specs)
    assert {name: array.dtype.name for name, array in one.items()} == {"x": "float32", "i": "int64"}
    assert all(np.array_equal(one[name], other[name]) for name in one)
    assert set(one["i"]) <= {0, 1}
    assert rows_of(one) == len(one["x"])


def test_inputs_of_different_lengths_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((3, 2)), y=np.ones((4, 2)))
    specs = [TensorSpec(name, (None, 2), "float32") for name in "xy"]
    with pytest.raises(InputError, match="the inputs have 3, 4 rows"):
        rows_of(read_feeds(tmp_path / "x.npz", specs))


def test_a_file_is_compared_with_an_engine_in_the_same_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine is opened by its own backend, here a stand-in that runs the ONNX file beside it."""
    opened: list[str] = []

    def stand_in(name: str) -> Any:
        opened.append(name)
        return SimpleNamespace(
            open=lambda path, threads, **_: backend("ort").open(path.with_suffix(".onnx"), threads=threads)
        )

    monkeypatch.setattr(two_files, "backend", stand_in)
    before = written(tmp_path / "a.onnx")
    written(tmp_path / "b.onnx", nodes=gemm())
    (tmp_path / "b.plan").write_bytes(b"a plan")
    assert verify_files(before, tmp_path / "b.plan").failed is None
    written(tmp_path / "b.onnx", bias=BIAS * np.float32(1.01))
    assert verify_files(before, tmp_path / "b.plan").failed == "before/after"
    assert opened == ["ort", "trt"] * 2
