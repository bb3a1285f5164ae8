"""tools/gpu_check.py up to where a GPU would be needed, and beyond it with steps that are played."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.engine import driver
from bn_deploy.engine.driver import Gpu
from tests.fakes import FakeRunner

ROOT = Path(__file__).parent.parent
GPU = Gpu("NVIDIA Thing/2", (8, 9), (12, 8))


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    return __import__("gpu_check")


@pytest.fixture
def steps(check: Any) -> Any:
    return __import__("gpu_steps")


def test_without_a_driver_it_is_one_line_and_3(
    check: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no NVIDIA driver is installed")
    assert check.main(["--images", "none"]) == 3
    assert capsys.readouterr().err == "gpu_check: nothing to check: no NVIDIA driver is installed\n"


def test_the_run_folder_is_missed_before_anything_runs(
    check: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    assert check.main(["--images", "none", "--run", str(tmp_path)]) == 2
    assert "manifest.json is missing" in capsys.readouterr().err


CELL = {"calls": 10, "p05_s": 0.001, "p50_s": 0.002, "p95_s": 0.003}
BATCHES = {"batches": {"8": {"compute": CELL, "end_to_end": CELL}}, "took_s": 1.0}
PARITY = {"accuracy": 0.89, "points_lost": 0.02, "largest_difference": 0.25, "labels_that_differ": 3}
FOUND = {
    "environment": {
        "gpu": {"name": GPU.name, "compute_capability": [8, 9]},
        "tensorrt": {"version": "TensorRT 11.4"},
    },
    "engine:fp16": {
        "plain": {"parity": PARITY, "cuda_graph": "off"},
        "graph": {"parity": PARITY, "cuda_graph": "on"},
        "plain_latency": BATCHES,
        "graph_latency": {**BATCHES, "cuda_graph": "on"},
        "graph_against_plain": {"same_bits": True},
    },
    "torch:eager": {"float32": BATCHES, "float16": {"failed": "RuntimeError: too old"}},
}


def played(name: str, out: Path, limit_s: float) -> str | None:
    """Writes what a step would find; int8 crashes after a part of it, bf16 leaves nothing."""
    assert limit_s <= 120
    if name == "engine:int8":
        out.write_text(json.dumps({"build": {"took_s": 1.0}}))
        return "ended with status -11"
    if name == "engine:bf16":
        return "stopped after 75 s"
    out.write_text(json.dumps(FOUND.get(name, {})))
    return None


def test_one_step_that_fails_costs_its_own_figures_only(check: Any, tmp_path: Path) -> None:
    said: list[str] = []
    results = {"date": "2026-01-02 03:04 UTC", **check.collect(played, tmp_path, said.append)}
    assert len(said) == len(check.STEPS)
    written = check.write(results, tmp_path / "results")
    assert [path.name for path in written] == [
        "2026-01-02-nvidia-thing-2.json",
        "2026-01-02-nvidia-thing-2.txt",
    ]
    assert json.loads(written[0].read_text())["steps"]["engine:int8"]["found"] == {"build": {"took_s": 1.0}}
    text = written[1].read_text()
    assert text.startswith("2026-01-02 03:04 UTC: NVIDIA Thing/2, compute capability 8.9, TensorRT 11.4\n")
    for line in (
        "fp16                0.8900         +0.02      2.50e-01             3  on, same bits",
        "TensorRT fp16, CUDA graph                    2.000 (4,000)",
        "torch float32                                2.000 (4,000)",
        "not measured: engine:int8: ended with status -11",
        "not measured: engine:bf16: stopped after 75 s",
        "not measured: torch:eager, float16: RuntimeError: too old",
    ):
        assert line in text


def test_an_interruption_keeps_what_was_found(check: Any, tmp_path: Path) -> None:
    ran: list[str] = []

    def interrupted(name: str, out: Path, limit_s: float) -> str | None:
        ran.append(name)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return played(name, out, limit_s)

    steps = check.collect(interrupted, tmp_path, lambda _: None)["steps"]
    assert steps["environment"] == {"problem": None, "found": FOUND["environment"]}
    assert [step["problem"] for step in steps.values()][2:] == ["interrupted"] * (len(check.STEPS) - 2)
    assert len(ran) == 3


def test_all_steps_together_keep_to_the_time(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "BUDGET_S", 0.0)
    results = check.collect(played, tmp_path, lambda _: None)
    assert {step["problem"] for step in results["steps"].values()} == {"no time was left"}
    assert check.BUDGET_S == 0
    monkeypatch.undo()
    assert check.BUDGET_S <= 8 * 60


def test_a_step_is_run_in_a_process_of_its_own(check: Any, tmp_path: Path) -> None:
    out = tmp_path / "environment.json"
    done = subprocess.run(
        [
            *(sys.executable, "tools/gpu_check.py", "--step", "environment", "--out", str(out)),
            *("--run", "none", "--images", "none", "--work", str(tmp_path)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(found) == {"gpu", "tensorrt", "machine"}


def test_a_step_that_hangs_or_dies_is_told(check: Any, tmp_path: Path) -> None:
    arguments = type("A", (), {"run": tmp_path, "images": tmp_path, "trt_path": None})()
    run = check.child(arguments, tmp_path)
    assert "KeyError" in run("nonsense", tmp_path / "x.json", 60)
    assert run("environment", tmp_path / "y.json", 0.01) == "stopped after 0 s"


def test_parity_counts_what_differs(steps: Any) -> None:
    images = np.zeros((600, 1, 2, 2), np.float32)
    wanted = np.tile([0.0, 1.0], (600, 1))
    logits = wanted.copy()
    logits[:6] = [2.0, 1.0]
    told = steps.parity(Played(logits), images, np.ones(600, np.uint8), wanted)
    assert told == {
        "images": 600,
        "accuracy": 0.99,
        "largest_difference": 2.0,
        "largest_logit": 1.0,
        "labels_that_differ": 6,
        "points_lost": 1.0,
    }
    with pytest.raises(ValueError, match="not finite"):
        steps.parity(Played(np.full_like(wanted, np.inf)), images, None, None)


class Played:
    """Gives the rows of an array, as many as it is shown images."""

    def __init__(self, logits: np.ndarray[Any, Any]) -> None:
        self.logits, self.at = logits, 0

    def __call__(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        self.at += len(images)
        return self.logits[self.at - len(images) : self.at]


def test_each_scope_is_timed_for_each_batch(steps: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "TIMED_S", 0.0)
    found = steps.latency(FakeRunner(), np.zeros((256, 4), np.float32))
    assert list(found) == ["1", "8", "64", "256"]
    assert set(found["8"]) == {"h2d", "compute", "d2h", "end_to_end"}
    assert found["8"]["compute"]["calls"] >= 10


def test_what_went_wrong_in_a_part_is_kept_with_what_went_well(steps: Any, tmp_path: Path) -> None:
    step = steps.Step(tmp_path, tmp_path, tmp_path, tmp_path / "out.json", {})
    with step.part("good") as found:
        found["x"] = 1
    with step.part("bad"):
        raise RuntimeError("the reason\nand more")
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["good"]["x"] == 1
    assert told["bad"]["failed"] == "RuntimeError: the reason and more"
