"""The miniature of Fashion-MNIST in the place of the published files."""

from __future__ import annotations

import gzip
import hashlib

import numpy as np
import pytest

from bn_deploy.data import fashion_mnist
from bn_deploy.data.fashion_mnist import FILES, File
from tests.data.miniature import Miniature, idx_bytes


@pytest.fixture
def miniature(monkeypatch: pytest.MonkeyPatch) -> Miniature:
    rng = np.random.default_rng(0)
    arrays = {
        file.name: rng.integers(0, 256 if len(file.shape) == 3 else 10, (8, *file.shape[1:]), dtype=np.uint8)
        for file in FILES
    }
    shapes = {name: array.shape for name, array in arrays.items()}

    def describe() -> None:
        table = tuple(
            File(name, hashlib.sha256(content).hexdigest(), len(content), shapes[name])
            for name, content in small.content.items()
        )
        monkeypatch.setattr(fashion_mnist, "FILES", table)

    small = Miniature(
        {name: gzip.compress(idx_bytes(array), mtime=0) for name, array in arrays.items()}, describe
    )
    describe()
    return small
