"""One small run of everything, shared by the tests of the command line; tests work on copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from bn_deploy.data import synthetic
from bn_deploy.data.dataset import Dataset


@pytest.fixture(scope="session")
def small_set() -> Dataset:
    """A synthetic set small enough to train on in a second."""
    return synthetic.make(600, 200)


@pytest.fixture(autouse=True)
def _small_synthetic(monkeypatch: pytest.MonkeyPatch, small_set: Dataset) -> None:
    """`--dataset synthetic` means the small set here."""
    monkeypatch.setattr(synthetic, "load", lambda **_: small_set)


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, small_set: Dataset) -> Path:
    """The folder of `bn-deploy run` on the small set. Not to be changed."""
    from bn_deploy.cli import main

    folder = tmp_path_factory.mktemp("runs") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "load", lambda **_: small_set)
        arguments = ["run", "--dataset", "synthetic", "--epochs", "2", "--batch", "64", "--run", str(folder)]
        assert main([*arguments, "--bench-batch", "1,8", "--budget", "0.01", "--processes", "1"]) == 0
    return folder
