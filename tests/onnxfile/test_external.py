"""Weights in other files are read where they may lie, and nowhere else: each refusal with its reason."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import ModelError
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.onnxfile.stored import read
from tests.onnxfile.models import apart, model, place

FIRST_BYTES = 24 * 24 * 3 * 3 * 4


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        fold_onnx(path, path.with_name("folded.onnx"))
    assert "\n" not in str(caught.value)
    assert not path.with_name("folded.onnx").exists()


def edited(path: Path, edit: Callable[[TensorProto], None]) -> None:
    """Rewrites what the model says of its first weight."""
    proto = onnx.load(path, load_external_data=False)
    edit(proto.graph.initializer[0])
    path.write_bytes(proto.SerializeToString())


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    stored = read(apart(tmp_path, location="weights.bin"))
    assert sorted(stored.weights) == ["w0", "w1"]
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in model().graph.initializer}
    small = {
        t.name: numpy_helper.to_array(t)
        for t in stored.proto.graph.initializer
        if t.name not in stored.weights
    }
    for name, array in {**stored.weights, **small}.items():
        np.testing.assert_array_equal(array, given[name])
    assert stored.data_files == {(tmp_path / "weights.bin").resolve()}


def test_weights_are_looked_at_and_not_copied(tmp_path: Path) -> None:
    one, two = tmp_path / "one.onnx", apart(tmp_path / "two")
    one.write_bytes(model().SerializeToString())
    for path in (one, two):
        for array in read(path).weights.values():
            assert not array.flags.owndata
            assert not array.flags.writeable


def test_folders_and_links_inside_are_followed(tmp_path: Path) -> None:
    path = apart(tmp_path)
    (tmp_path / "below").mkdir()
    (tmp_path / "weights.bin").rename(tmp_path / "below" / "data")
    (tmp_path / "weights.bin").symlink_to("below/data")
    assert len(fold_onnx(path, tmp_path / "folded.onnx").folded) == 2


PLACES = {
    "a root": ("/etc/hostname", "none from a root"),
    "a drive": ("C:\\data\\weights.bin", "none from a root"),
    "a share": ("\\\\server\\weights.bin", "none from a root"),
    "above": ("../weights.bin", r"without '\.\.'"),
    "above and back": ("below/../weights.bin", r"without '\.\.'"),
    "above, written otherwise": ("below\\..\\..\\weights.bin", r"without '\.\.'"),
    "a zero byte": ("weights.bin\0", "only a path inside"),
    "nowhere": ("none.bin", "there is no such file"),
    "a folder": (".", "is not a file"),
    "a file as a folder": ("model.onnx/weights.bin", "cannot be read|no such file"),
    "no name": ("", "names none"),
}


@pytest.mark.parametrize(("location", "reason"), PLACES.values(), ids=PLACES)
def test_places_outside_the_folder_are_refused(tmp_path: Path, location: str, reason: str) -> None:
    path = apart(tmp_path / "inner")
    (tmp_path / "weights.bin").write_bytes((tmp_path / "inner" / "weights.bin").read_bytes())
    edited(path, lambda tensor: place(tensor, location, 1, FIRST_BYTES))
    refused(path, reason)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "inner")
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "inner" / "weights.bin").symlink_to("../weights.bin")
    refused(path, "leads out of the model's folder; copy the file there")


def test_a_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "inner")
    (tmp_path / "outer").mkdir()
    (tmp_path / "inner" / "weights.bin").rename(tmp_path / "outer" / "weights.bin")
    (tmp_path / "inner" / "sub").symlink_to("../outer")
    edited(path, lambda tensor: place(tensor, "sub/weights.bin", 1, FIRST_BYTES))
    refused(path, "leads out of the model's folder")


def test_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path)
    (tmp_path / "weights.bin").unlink()
    (tmp_path / "weights.bin").symlink_to("weights.bin")
    refused(path, "cannot be read")


def test_a_file_with_another_name_elsewhere_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "inner")
    os.link(tmp_path / "inner" / "weights.bin", tmp_path / "secret")
    refused(path, "hard links")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    path = apart(tmp_path)
    (tmp_path / "weights.bin").unlink()
    os.mkfifo(tmp_path / "weights.bin")
    refused(path, "is not a file")


STRETCHES = {
    "from beyond the end": (1 << 40, FIRST_BYTES, "which has only"),
    "past the end": (60_000, FIRST_BYTES, "which has only"),
    "too few bytes": (1, FIRST_BYTES - 4, "needs 20736 bytes by its type and shape, but says 20732"),
    "too many bytes": (1, FIRST_BYTES + 4, "but says 20740"),
    "before the start": (-1, FIRST_BYTES, "the offset of w0 is '-1'"),
    "no number": ("one", FIRST_BYTES, "the offset of w0 is 'one'"),
    "a huge number": (1, "9" * 30, "the length of w0 is '9999"),
}


@pytest.mark.parametrize(("offset", "length", "reason"), STRETCHES.values(), ids=STRETCHES)
def test_stretches_outside_the_file_are_refused(
    tmp_path: Path, offset: object, length: object, reason: str
) -> None:
    path = apart(tmp_path)
    edited(path, lambda tensor: place(tensor, "weights.bin", offset, length))
    refused(path, reason)


def test_the_end_of_a_stretch_may_go_unsaid(tmp_path: Path) -> None:
    path = apart(tmp_path)
    edited(path, lambda tensor: place(tensor, "weights.bin", 1))
    assert len(fold_onnx(path, path).folded) == 2


def _no_size(tensor: TensorProto) -> None:
    tensor.data_type = TensorProto.STRING


def _negative(tensor: TensorProto) -> None:
    tensor.dims[0] = -24


def _unknown_key(tensor: TensorProto) -> None:
    tensor.external_data.add(key="hook", value="?")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (_no_size, "not kept as bytes"),
        (_negative, r"has the shape \[-24"),
        (_unknown_key, "has the unknown key 'hook'"),
    ],
)
def test_tensors_that_cannot_lie_elsewhere_are_refused(
    tmp_path: Path, edit: Callable[[TensorProto], None], reason: str
) -> None:
    path = apart(tmp_path)
    edited(path, edit)
    refused(path, reason)


def test_a_content_of_another_size_than_the_shape_is_refused(tmp_path: Path) -> None:
    proto = model()
    proto.graph.initializer[0].raw_data += b"\0\0\0\0"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    refused(tmp_path / "model.onnx", "has 20740 bytes, but needs 20736")


def test_two_weights_of_one_name_are_refused(tmp_path: Path) -> None:
    path = apart(tmp_path)
    edited(path, lambda tensor: setattr(tensor, "name", "w1"))
    refused(path, "two initializers are called w1")


def test_weights_in_attributes_and_subgraphs_may_lie_elsewhere(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    arrays = [random.standard_normal((24, 5, 5)).astype(np.float32) for _ in range(2)]
    data = b"".join(array.tobytes() for array in arrays)
    tensors = [TensorProto(name="k", data_type=1, dims=(24, 5, 5)) for _ in arrays]
    for index, tensor in enumerate(tensors):
        place(tensor, "more.bin", index * len(data) // 2, len(data) // 2)
    result = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["n", 24, 5, 5])
    branch = helper.make_graph([helper.make_node("Add", ["t1", "k"], ["r"])], "b", [], [result], [tensors[0]])
    proto = model()
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["i"], then_branch=branch, else_branch=branch))
    proto.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensors[1]))
    proto.graph.node.append(helper.make_node("Add", ["i", "c"], ["z"]))
    proto.graph.output[0].name = "z"
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "more.bin").write_bytes(data)
    fold_onnx(tmp_path / "model.onnx", tmp_path / "new" / "folded.onnx")
    folded = onnx.load(tmp_path / "new" / "folded.onnx")
    branches = [
        a.g.initializer[0] for node in folded.graph.node if node.op_type == "If" for a in node.attribute
    ]
    constants = [a.t for node in folded.graph.node if node.op_type == "Constant" for a in node.attribute]
    for tensor, array in [*((b, arrays[0]) for b in branches), (constants[0], arrays[1])]:
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), array)
