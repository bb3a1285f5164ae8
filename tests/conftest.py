"""What every test gets: no data from outside, and the real files only where a test asks for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bn_deploy.data import fashion_mnist
from bn_deploy.engine import api
from bn_deploy.engine.api import TensorRT
from bn_deploy.errors import NotAvailable

NAMED = os.environ.get(fashion_mnist.ENVIRONMENT_VARIABLE)
"""As it was before `_own_surroundings` takes it away."""


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads or fills the user's cache, asks a mirror, or goes through a proxy."""
    cache = tmp_path_factory.getbasetemp() / "no-cache"
    monkeypatch.delenv(fashion_mnist.ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(fashion_mnist, "cache_folder", lambda: cache)
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ())
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture(scope="session")
def fashion_mnist_dir() -> Path:
    """The folder with the real files: $BN_DEPLOY_DATA, else the data folder beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "fashion-mnist"
    folder = Path(NAMED) if NAMED else beside
    lacking = [file.name for file in fashion_mnist.FILES if not (folder / file.name).is_file()]
    if lacking:
        pytest.skip(
            f"{folder} lacks {lacking[0]}; ${fashion_mnist.ENVIRONMENT_VARIABLE} names another folder"
        )
    return folder


@pytest.fixture(scope="session")
def rtx() -> TensorRT:
    """TensorRT-RTX, which builds engines without a GPU."""
    try:
        return api.find("tensorrt_rtx")
    except NotAvailable as reason:
        pytest.skip(str(reason))
