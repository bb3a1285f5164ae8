"""`bn-deploy fold --pad-exact` and `--merge-branches`: off unless asked for, and checked like any fold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bn_deploy.cli import main
from bn_deploy.exporting.onnx_file import inspect
from tests.fold_onnx.graphs import Net


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A batch norm before padded zeros, and one beside a convolution."""
    net = Net(("N", 4, 6, 6), dtype=np.float32)
    numbers = [net.const(np.full(4, number)) for number in (2.0, 1.0, 0.5, 1.0)]
    y = net.op("BatchNormalization", "x", *numbers)
    z = net.op("Tanh", net.conv(y, 4, 4, 3, pads=[1] * 4))
    out = net.op("Add", net.conv(z, 4, 4, 3, pads=[1] * 4), net.op("BatchNormalization", z, *numbers))
    onnx.save(net.model(out), tmp_path / "in.onnx")
    return tmp_path / "in.onnx"


@pytest.mark.parametrize(
    ("flags", "left"),
    [([], 2), (["--pad-exact"], 1), (["--merge-branches"], 1), (["--pad-exact", "--merge-branches"], 0)],
)
def test_what_each_option_takes_away(
    flags: list[str], left: int, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.onnx"
    assert main(["fold", str(source), str(out), "--strict", *flags]) == (1 if left else 0)
    assert f"batch norms 2 -> {left}" in capsys.readouterr().out
    assert inspect(out).batchnorms == left
