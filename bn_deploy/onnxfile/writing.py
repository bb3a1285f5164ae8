"""Writes an ONNX model weight by weight: as one file, or as the file and one with its large weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir as ir

from bn_deploy.errors import InputError
from bn_deploy.onnxfile.skeleton import large_weights, skeleton
from bn_deploy.onnxfile.stored import LARGEST_FILE_BYTES, locations
from bn_deploy.onnxfile.wire import Gap, Piece, put_in, size_bytes

DATA_SUFFIX = ".data"
"""What the name of the file with the weights has more than that of the model."""

_ALIGNMENT_BYTES = 64
"""Where weights may start in their file: at what the widest vector instructions load at a time."""


@dataclass(frozen=True)
class Unwritten:
    """A model about to be written.

    Attributes:
        proto: what is in it; large initializers of the main graph are marked as external, at no place.
        weights: what is in these, by name; computed when written.
    """

    proto: onnx.ModelProto
    weights: Mapping[str, ir.TensorProtocol]

    @classmethod
    def of(cls, model: ir.Model) -> Unwritten:
        """What `model` holds.

        Raises:
            ValueError: what is in it besides large weights is more than protobuf can hold.
        """
        weights = large_weights(model)
        return cls(skeleton(model, weights), weights)

    def write(self, path: Path, *, external: bool) -> bool:
        """Writes the model to `path`; its large weights go beside it if asked for, or if they must.

        The same model gives the same bytes. As one file, they are those that protobuf writes.

        Args:
            path: the file; another one is called as it, and DATA_SUFFIX.
            external: whether large weights go to another file; if one file cannot hold them, they do.

        Returns:
            Whether there is another file.

        Raises:
            OSError: a file cannot be written.
            EncodeError, ValueError: what is in the model besides large weights is too large for one file.
        """
        sizes = {name: tensor.nbytes for name, tensor in self.weights.items()}
        pieces = put_in(self.proto.SerializeToString(deterministic=True), sizes)
        if (external and self.weights) or size_bytes(pieces) > LARGEST_FILE_BYTES:
            self._write_two(path)
            return True
        with path.open("wb") as file:
            self._write_one(file, pieces)
        return False

    def _write_one(self, file: BinaryIO, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Gap):
                _stream(self.weights[piece.name], file)
            else:
                file.write(piece)

    def _write_two(self, path: Path) -> None:
        data_path = data_path_of(path)
        places = {}
        with data_path.open("wb") as file:
            for name, weight in self.weights.items():
                file.write(bytes(-file.tell() % _ALIGNMENT_BYTES))
                places[name] = (file.tell(), weight.nbytes)
                _stream(weight, file)
        for tensor in self.proto.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                offset, length = places[tensor.name]
                for key, said in (("location", data_path.name), ("offset", offset), ("length", length)):
                    tensor.external_data.add(key=key, value=str(said))
        path.write_bytes(self.proto.SerializeToString(deterministic=True))


def _stream(tensor: ir.TensorProtocol, file: BinaryIO) -> None:
    """Writes what is in a tensor, without a copy of it where it is an array."""
    tensor.tofile(file)  # type: ignore[attr-defined]  # all tensors of onnx-ir have it; the protocol does not


def data_path_of(path: Path) -> Path:
    """Where the weights of the model `path` go, if they go to another file."""
    return path.with_name(path.name + DATA_SUFFIX)


def require_free(path: Path, source: Path, read_from: frozenset[Path]) -> None:
    """Refuses to replace a file of weights that belongs to something else than the model at `path`.

    Args:
        path: where a model goes.
        source: the model that it is made from, which may be the same.
        read_from: the other files of that one.

    Raises:
        InputError: the file that it needs is another model's, or nobody knows whose.
    """
    data = data_path_of(path)
    if not data.exists() and not data.is_symlink():
        return
    same = path.exists() and path.samefile(source)
    if data.resolve() in read_from and not same:
        raise InputError(f"{data} holds the weights of {source}; choose another name than {path.name}")
    if data.is_dir() or data.name not in locations(path):
        raise InputError(f"{data}, where the weights go, exists and does not belong to {path}; move it away")
