"""Rows and records for tests, without a process being started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bn_deploy.backends.options import AS_IT_IS
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.rows import LatencyResult, Run
from bn_deploy.spec import Precision

DIGEST = "0123456789abcdef" * 4
ENVIRONMENT: dict[str, Any] = {
    "python": "3.11.7",
    "cpu_model": None,
    "usable_cores": 2,
    "load_average": None,
    "versions": {"numpy": "2.0"},
}


def run(samples_ns: Sequence[int] = (2000, 1000, 3000), process: int = 0, **changes: Any) -> Run:
    values: dict[str, Any] = {
        "process": process,
        "blocks": (len(samples_ns),),
        "samples_ns": tuple(samples_ns),
        "warmup_calls": 3,
        "warmup_ns": 250,
    }
    return Run(**{**values, **changes})


def result(runs: Sequence[Run] | None = None, **changes: Any) -> LatencyResult:
    values: dict[str, Any] = {
        "model": "folded",
        "backend": "ort",
        "again": False,
        "requested": {
            "threads": 1,
            "spinning": None,
            "precision": "fp32",
            "provider": None,
            **AS_IT_IS.to_json(),
        },
        "provider": "CPUExecutionProvider",
        "device": "cpu",
        "precision": Precision.FP32,
        "threads": 1,
        "spinning": None,
        "cuda_graph": None,
        "no_cuda_graph": None,
        "tf32": None,
        "batch": 8,
        "scope": "end_to_end",
        "census": {"Conv": 2},
        "runs": tuple(runs) if runs is not None else (run(),),
    }
    return LatencyResult(**{**values, **changes})


def of_processes(
    medians_us: Sequence[float], *, seed: int = 0, calls: int = 40, **changes: Any
) -> LatencyResult:
    """A row whose processes have these medians, each with four blocks and a little noise."""
    generator = np.random.default_rng(seed)
    runs = []
    for process, median_us in enumerate(medians_us):
        noise = np.exp(generator.normal(0, 0.002, calls))
        samples = [max(1, round(sample)) for sample in median_us * 1000 * noise]
        runs.append(run(samples, process, blocks=(calls // 4,) * 4))
    return result(runs, **changes)


def record(**changes: Any) -> LatencyRecord:
    values: dict[str, Any] = {
        "environment": ENVIRONMENT,
        "options": MeasureOptions(),
        "artifacts": {"onnx.folded": DIGEST},
        "dataset": "fashion-mnist",
        "results": (result(), result(batch=64)),
    }
    return LatencyRecord(**{**values, **changes})
