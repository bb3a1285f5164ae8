"""What tests of building share: a GPU that is not there, and a small ONNX file."""

from __future__ import annotations

from pathlib import Path

import platformdirs
import pytest

from bn_deploy.engine import driver
from bn_deploy.engine.driver import Gpu
from tests.engine.models import cnn, save


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The driver sees a GPU, and the user's cache is empty."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: cache)
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("NVIDIA Thing", (8, 9), (12, 8)))


@pytest.fixture
def onnx_path(tmp_path: Path) -> Path:
    return save(cnn(), tmp_path / "model.onnx")
