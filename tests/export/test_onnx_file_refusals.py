"""What is not exported, and what is not read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from torch import Tensor, nn

from bn_deploy.errors import CheckFailed, InputError, ModelError
from bn_deploy.exporting.onnx_file import inspect
from bn_deploy.spec import Stage, TensorSpec
from tests.export.small import small, write
from tests.lenets import onnx_bytes

FOUND = "the exported graph takes x float32 (N x 3 x 8 x 8) and gives y float32 (N x 3 x 8 x 8)"


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Raising(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("first line\nsecond line")


def half_in_training() -> nn.Module:
    network = small(nn.BatchNorm2d(3), nn.ReLU())
    network.get_submodule("1").train()
    return network


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (small().train(), "the network is in training mode; call .eval() before exporting"),
        (half_in_training(), "1 is in training mode; call .eval() before exporting"),
        (
            small(nn.BatchNorm2d(3, track_running_stats=False)),
            "1 keeps no running statistics (track_running_stats=False), so its output depends on the batch",
        ),
        (_Raising().eval(), "the network cannot be exported to ONNX: first line"),
        (_Branches().eval(), "the network cannot be exported to ONNX: Could not guard on data-dependent"),
    ],
    ids=["training", "half in training", "no statistics", "raises", "branches on data"],
)
def test_a_network_that_cannot_be_exported_is_refused_in_one_line(
    tmp_path: Path, network: nn.Module, said: str
) -> None:
    with pytest.raises(ModelError) as refusal:
        write(network, tmp_path / "m.onnx")
    assert str(refusal.value).startswith(said)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batchnorms": 0}, "the exported graph has 1 BatchNormalization operators, not 0"),
        ({"batchnorms": 2}, "the exported graph has 1 BatchNormalization operators, not 2"),
        (
            {"outputs": (TensorSpec("y", (None, 3, 8, 9), "float32"),)},
            f"{FOUND}; asked for were x float32 (N x 3 x 8 x 8) and y float32 (N x 3 x 8 x 9)",
        ),
        (
            {"outputs": (TensorSpec("y", (2, 3, 8, 8), "float32"),)},
            f"{FOUND}; asked for were x float32 (N x 3 x 8 x 8) and y float32 (2 x 3 x 8 x 8)",
        ),
    ],
    ids=["too many batch norms", "too few", "other size", "batch not dynamic"],
)
def test_a_file_that_is_not_what_was_asked_for_replaces_nothing(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the old one")
    with pytest.raises(CheckFailed) as failure:
        write(small(nn.BatchNorm2d(3)), path, **changes)
    assert str(failure.value) == said
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", [onnx.checker.ValidationError, onnx.shape_inference.InferenceError])
def test_an_invalid_graph_is_a_failed_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def refuse(model: onnx.ModelProto, *, full_check: bool) -> None:
        assert full_check
        raise kind("bad graph\n==> context")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(CheckFailed, match=r"^the exported graph is not valid ONNX: bad graph$"):
        write(small(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="it is a folder"):
        write(small(), tmp_path)


def _external(model: onnx.ModelProto) -> None:
    """A weight in a file elsewhere, which nobody asked to have read."""
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")


def _sequence(model: onnx.ModelProto) -> None:
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, ["N"])
    model.graph.output[0].type.CopyFrom(helper.make_sequence_type_proto(tensor))


def edited(change: Callable[[onnx.ModelProto], None]) -> Callable[[bytes], bytes]:
    def damage(data: bytes) -> bytes:
        model = onnx.load_model_from_string(data)
        change(model)
        result: bytes = model.SerializeToString()
        return result

    return damage


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: b"", "FILE is not a valid ONNX file: "),
        (lambda data: b"not a model", "FILE is not a valid ONNX file: "),
        (lambda data: data[:5000], "FILE is not a valid ONNX file: "),
        (lambda data: data[:-3], "FILE is not a valid ONNX file: "),
        (
            edited(_external),
            "FILE is not a valid ONNX file: Data of TensorProto ( tensor name: 0.weight) should be",
        ),
        (edited(_sequence), "FILE cannot be described: 'logits' is no tensor of a known type and rank"),
    ],
    ids=["empty", "text", "half", "almost", "weights elsewhere", "a sequence"],
)
def test_a_file_that_is_no_onnx_file_is_refused(
    tmp_path: Path, damage: Callable[[bytes], bytes], said: str
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(damage(onnx_bytes(Stage.FOLDED)))
    assert refused(path).startswith(said)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == "FILE is a folder, not an ONNX file"
    said = "there is no ONNX file FILE; `bn-deploy export --fold-bn` makes one"
    assert refused(tmp_path / "none.onnx") == said


def refused(path: Path) -> str:
    with pytest.raises(ModelError) as refusal:
        inspect(path)
    assert "\n" not in str(refusal.value)
    return str(refusal.value).replace(str(path), "FILE")
