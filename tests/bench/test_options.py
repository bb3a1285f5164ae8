from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.backends.options import RunOptions
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.intervals import FEWEST
from bn_deploy.bench.job import Job
from bn_deploy.bench.options import QUICK, SWEEP, MeasureOptions
from bn_deploy.errors import InputError

SERVER = MeasureOptions(
    batch_sizes=(1, 64),
    scopes=("compute", "d2h"),
    regime="cold",
    scenario="server",
    rate_per_s=10,
    processes=3,
    budget_s=2,
    warmup_s=1,
    quick=True,
)
CANDIDATE = Candidate(
    "folded",
    "ort",
    Source("onnx", "/somewhere/model.onnx"),
    2,
    True,
    "fp32",
    "CPU",
    RunOptions(cuda_graph=True, trust=True, lean_runtime=Path("/somewhere/lean.so")),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": ()}, "batch sizes must be given"),
        ({"batch_sizes": (8, 8)}, "each once"),
        ({"batch_sizes": (0, 8)}, "at least 1, not 0"),
        ({"scopes": ()}, "scopes must be given"),
        ({"scopes": ("compute", "compute")}, "each once"),
        ({"scopes": ("all",)}, "a scope is one of compute, end_to_end, h2d, d2h, not all"),
        ({"regime": "hot"}, "a regime is one of warm, cold, not hot"),
        ({"scenario": "multi"}, "a scenario is one of single, server, offline, not multi"),
        ({"scenario": "server"}, "needs a rate"),
        ({"rate_per_s": 5.0}, "and no other, needs a rate"),
        ({"scenario": "server", "rate_per_s": 0.0}, "rate must be more than 0"),
        ({"scenario": "server", "rate_per_s": math.nan}, "rate must be more than 0"),
        ({"processes": 0}, "measure nothing"),
        ({"rounds": 0}, "measure nothing"),
        ({"warmup_s": -0.1}, "warm-up must be 0 s or more"),
        ({"warmup_s": math.inf}, "warm-up must be 0 s or more"),
        ({"budget_s": 0.0}, "time budget"),
        ({"budget_s": math.nan}, "time budget"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_options_refuse(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureOptions(**changes)


def test_the_defaults_can_decide_and_the_quick_look_cannot() -> None:
    assert MeasureOptions().processes >= FEWEST
    assert QUICK.processes < FEWEST
    assert QUICK.quick
    assert SWEEP == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@pytest.mark.parametrize("chosen", [MeasureOptions(), QUICK, SERVER])
def test_options_survive_json(chosen: MeasureOptions) -> None:
    assert MeasureOptions.from_json(chosen.to_json()) == chosen


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [1, "8"]}, r"options: batch_sizes\[1\] must be an integer"),
        ({"scopes": [3]}, r"options: scopes\[0\] must be a string"),
        ({"seed": None}, "options: seed must be an integer, not null"),
        ({"budget_s": -1.0}, "time budget"),
    ],
)
def test_reading_options_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MeasureOptions.from_json({**MeasureOptions().to_json(), **changes})


def test_a_job_survives_json() -> None:
    job = Job((CANDIDATE, CANDIDATE.twin()), Path("/in.npz"), SERVER, 3, describe=True, probe=True)
    assert Job.from_json(job.to_json()) == job


def test_a_twin_differs_in_name_only() -> None:
    assert CANDIDATE.name == "ort folded"
    assert CANDIDATE.twin().name == "ort folded again"
    assert CANDIDATE.twin().source == CANDIDATE.source


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(InputError, match="no source of the kind 'pickle'"):
        Source("pickle", "/somewhere")
    job = Job((CANDIDATE,), Path("/in.npz"), SERVER, 0).to_json()
    del job["candidates"][0]["source"]["form"]
    with pytest.raises(InputError, match="candidate 0: source lacks form"):
        Job.from_json(job)
