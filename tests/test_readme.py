"""What the README shows is what the tools produce."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_generated_parts_are_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_stale_part_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    readme = __import__("readme")
    assert readme.filled(README) == README
    assert readme.filled(README.replace("| `bn-deploy train` |", "| `bn-deploy study` |")) == README
    with pytest.raises(SystemExit, match="needs one"):
        readme.filled("no markers")


def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "batch norms 2 -> 1" in done.stdout
    assert (tmp_path / "model.onnx").is_file()


def test_every_file_that_is_named_exists() -> None:
    for name in re.findall(r"`((?:tools|tests|models|batchnorm|folding)/[\w./-]+)`", README):
        if "<" not in name:
            assert (ROOT / name).exists() or (ROOT / "bn_deploy" / name).exists(), name
