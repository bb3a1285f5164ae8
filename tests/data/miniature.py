"""Fashion-MNIST in miniature: four files of the same form."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@dataclass
class Miniature:
    """The files' content by name; `describe` makes it what the package takes for published."""

    content: dict[str, bytes]
    describe: Callable[[], None]

    def lay_out(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in self.content.items():
            (folder / name).write_bytes(content)
        return folder
