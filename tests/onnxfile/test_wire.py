"""Weights are taken out of the bytes of a file, and put back, as if protobuf had done it."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto

from bn_deploy.onnxfile.wire import Gap, WireError, put_in, size_bytes, taken_out
from tests.onnxfile.models import model

DATA = model().SerializeToString(deterministic=True)


def filled(data: bytes, places: dict[str, tuple[int, int]], source: bytes) -> bytes:
    pieces = put_in(data, {name: length for name, (_, length) in places.items()})
    whole = b"".join(
        source[places[p.name][0] : sum(places[p.name])] if isinstance(p, Gap) else p for p in pieces
    )
    assert len(whole) == size_bytes(pieces)
    return whole


def test_what_is_taken_out_is_where_it_was() -> None:
    bare, places = taken_out(memoryview(DATA), 1025)
    assert sorted(places) == ["w0", "w1"]
    given = {tensor.name: tensor for tensor in onnx.load_model_from_string(DATA).graph.initializer}
    for tensor in onnx.load_model_from_string(bare).graph.initializer:
        if tensor.name in places:
            offset, length = places[tensor.name]
            assert DATA[offset : offset + length] == given[tensor.name].raw_data
            assert tensor.data_location == TensorProto.EXTERNAL
            tensor.raw_data = given[tensor.name].raw_data
            tensor.ClearField("data_location")
        assert tensor == given[tensor.name]


def test_what_is_put_in_gives_the_bytes_of_protobuf() -> None:
    proto = model()
    proto.graph.initializer[0].doc_string = "said after the content"
    proto.graph.initializer[0].metadata_props.add(key="a", value="b")
    data = proto.SerializeToString(deterministic=True)
    bare, places = taken_out(memoryview(data), 1)
    again = onnx.load_model_from_string(bare).SerializeToString(deterministic=True)
    assert len(places) == len(proto.graph.initializer)
    assert filled(again, places, data) == data


def test_fields_in_any_order_and_repeated_messages_are_read() -> None:
    # Protobuf merges what comes twice, and a writer may choose the order.
    first, second = onnx.ModelProto(), onnx.ModelProto()
    first.graph.initializer.append(model().graph.initializer[0])
    second.graph.initializer.append(model().graph.initializer[6])
    data = second.SerializeToString() + b"\x08\x0a" + first.SerializeToString()
    bare, places = taken_out(memoryview(data), 1025)
    assert sorted(places) == ["w0", "w1"]
    assert [t.name for t in onnx.load_model_from_string(bare).graph.initializer] == ["w1", "w0"]


def test_a_tensor_with_two_contents_is_left_to_protobuf() -> None:
    proto = onnx.ModelProto()
    proto.graph.initializer.append(TensorProto(name="w", raw_data=b"a" * 2000))
    tensor = proto.graph.initializer[0].SerializeToString()
    twice = tensor + TensorProto(raw_data=b"b" * 2000).SerializeToString()
    graph = b"\x2a" + bytes([len(twice) & 127 | 128, len(twice) >> 7]) + twice
    data = b"\x3a" + bytes([len(graph) & 127 | 128, len(graph) >> 7]) + graph
    assert onnx.load_model_from_string(data).graph.initializer[0].raw_data == b"b" * 2000
    assert taken_out(memoryview(data), 1025) == (data, {})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (DATA[:-3], "in the middle of a field"),
        (b"\x08", "in the middle of a number"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x0b\x0c", "unknown way"),
        (DATA + DATA, "two initializers are called w0"),
    ],
)
def test_what_is_no_message(data: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        taken_out(memoryview(data), 1025)
