"""The bytes of an ONNX file, without its large weights being parsed: protobuf copies all that it reads.

An ONNX file is a protobuf message: fields one after the other, each a number, a length and a payload, which
may be a message in turn. Only the path to the weights is followed here, and only their bytes are taken out or
put in; all else is passed on as it is, for protobuf to judge.
Format: https://protobuf.dev/programming-guides/encoding/, field numbers: onnx.proto.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 8, 9, 13, 14  # of TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MARK = bytes([_DATA_LOCATION << 3 | _VARINT, 1])  # data_location: EXTERNAL


class WireError(ValueError):
    """These bytes are no protobuf message."""


@dataclass(frozen=True)
class Field:
    """Where one field of a message lies.

    Attributes:
        number, kind: which field, and how it is coded.
        start, payload, end: offsets of the field, of its content, and of what follows it.
    """

    number: int
    kind: int
    start: int
    payload: int
    end: int


@dataclass(frozen=True)
class Gap:
    """Where the bytes of a weight belong.

    Attributes:
        name: the initializer's.
        size_bytes: how many there are.
    """

    name: str
    size_bytes: int


Piece = bytes | Gap
Edit = Callable[[memoryview, int], list[Piece] | None]
"""What becomes of one initializer, given its bytes and their offset; None leaves it as it is."""


def taken_out(data: memoryview, least_bytes: int) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """An ONNX file without its large weights, which are marked as external, at no location.

    Args:
        data: the file.
        least_bytes: from which size on the content of an initializer of the main graph is taken out.

    Returns:
        The file without them, and the offset and length in `data` of what each lacks, by name.

    Raises:
        WireError: the file is no protobuf message, or two initializers have the same name.
    """
    found: dict[str, tuple[int, int]] = {}

    def edit(tensor: memoryview, offset: int) -> list[Piece] | None:
        fields = list(_fields(tensor))
        raw = [field for field in fields if field.number == _RAW_DATA]
        names = [field for field in fields if field.number == _NAME]
        placed = any(field.number in {_EXTERNAL_DATA, _DATA_LOCATION} for field in fields)
        if placed or len(raw) != 1 or len(names) != 1 or raw[0].end - raw[0].payload < least_bytes:
            return None
        name = str(tensor[names[0].payload : names[0].end], "utf-8", "strict")
        if name in found:
            raise WireError(f"two initializers are called {name}")
        found[name] = (offset + raw[0].payload, raw[0].end - raw[0].payload)
        return [bytes(tensor[: raw[0].start]), bytes(tensor[raw[0].end :]), _MARK]

    pieces = _edited(data, edit, least_bytes)
    return b"".join(piece for piece in pieces if isinstance(piece, bytes)), found


def put_in(data: bytes, sizes: dict[str, int]) -> list[Piece]:
    """The inverse of `taken_out`: the pieces of a file, with a gap where the bytes of each weight belong.

    Args:
        data: an ONNX file, as protobuf writes it, whose large weights are marked as external.
        sizes: of each of them, in bytes.
    """
    if not sizes:
        return [data]

    def edit(tensor: memoryview, _: int) -> list[Piece] | None:
        fields = list(_fields(tensor))
        name = next((str(tensor[f.payload : f.end], "utf-8") for f in fields if f.number == _NAME), "")
        if name not in sizes:
            return None
        before = [bytes(tensor[f.start : f.end]) for f in fields if f.number < _RAW_DATA]
        other = [f for f in fields if f.number not in {_EXTERNAL_DATA, _DATA_LOCATION}]
        after = [bytes(tensor[f.start : f.end]) for f in other if f.number > _RAW_DATA]
        return [*before, _prefix(_RAW_DATA, sizes[name]), Gap(name, sizes[name]), *after]

    return _edited(memoryview(data), edit, 0)


def size_bytes(pieces: list[Piece]) -> int:
    """How long the file is that `pieces` make."""
    return sum(piece.size_bytes if isinstance(piece, Gap) else len(piece) for piece in pieces)


def _edited(data: memoryview, edit: Edit, least_bytes: int, path: tuple[int, ...] = ()) -> list[Piece]:
    """The message `data`, in which `edit` has had every initializer of the main graph from a size on."""
    pieces: list[Piece] = []
    wanted = (_GRAPH, _INITIALIZER)[len(path)]
    done = 0  # up to where `data` is in `pieces`
    for field in _fields(data):
        if field.number != wanted or field.kind != _BYTES or field.end - field.payload < least_bytes:
            continue
        inner = data[field.payload : field.end]
        if path:
            changed = edit(inner, path[0] + field.payload)
        else:
            changed = _edited(inner, edit, least_bytes, (field.payload,))
        if changed is not None:
            pieces.append(bytes(data[done : field.start]))
            pieces += [_prefix(field.number, size_bytes(changed)), *changed]
            done = field.end
    pieces.append(bytes(data[done:]))
    return pieces


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            payload, (_, end) = at, _varint(data, at)
        elif kind == _BYTES:
            length, payload = _varint(data, at)
            end = payload + length
        elif kind in {_FIXED64, _FIXED32}:
            payload, end = at, at + (8 if kind == _FIXED64 else 4)
        else:
            raise WireError(f"a field is coded in the unknown way {kind}")
        if end > len(data):
            raise WireError("it ends in the middle of a field")
        yield Field(key >> 3, kind, start, payload, end)
        at = end


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise WireError("it ends in the middle of a number")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return number, at
    raise WireError("a number does not end")


def _prefix(number: int, length: int) -> bytes:
    """What stands before the content of a field of `length` bytes."""
    coded = bytearray([number << 3 | _BYTES])
    while length >= 0x80:
        coded.append(length & 0x7F | 0x80)
        length >>= 7
    coded.append(length)
    return bytes(coded)
