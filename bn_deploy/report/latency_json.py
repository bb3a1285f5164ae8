"""The derived figures of a measurement as JSON values, in seconds; raw samples stay in latency.json."""

from __future__ import annotations

from typing import Any

from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.bench.stats import PERCENTILES
from bn_deploy.bench.verdict import Comparison, noise, told


def latency_json(record: LatencyRecord) -> dict[str, Any]:
    """A measurement: its rows, verdicts, noise, and what it depends on."""
    return {
        "results": latency_rows(record),
        "verdicts": [_comparison(c) for c in told(record.results, record.options.scenario)],
        "noise": [_comparison(c) for c in noise(record.results)],
        "options": record.options.to_json(),
        "parity": dict(record.parity),
        "overhead_s": record.overhead_s,
        "memory": [dict(vars(row)) for row in record.memory],
        "choices": dict(record.choices),
        "interrupted": record.interrupted,
        "environment": dict(record.environment),
        "conditions": dict(record.conditions),
    }


def latency_rows(record: LatencyRecord) -> list[dict[str, Any]]:
    """The derived figures of each row of a measurement, in seconds."""
    return [_row(result) for result in record.results]


def _row(result: LatencyResult) -> dict[str, Any]:
    row: dict[str, Any] = {
        "backend": result.backend,
        "model": result.model,
        "again": result.again,
        "requested": dict(result.requested),
        "provider": result.provider,
        "device": result.device,
        "precision": result.precision.value,
        "threads": result.threads,
        "spinning": result.spinning,
        "cuda_graph": result.cuda_graph,
        "no_cuda_graph": result.no_cuda_graph,
        "tf32": result.tf32,
        "batch": result.batch,
        "scope": result.scope,
        "throughput_per_s": result.throughput_per_s,
        "samples": len(result.ascending_s),
        "outliers": result.outliers,
        "unserved": result.unserved,
        "process_medians_s": list(result.process_medians_s),
        "process_interval_s": None if result.process_interval_s is None else [*result.process_interval_s],
        "census": None if result.census is None else dict(result.census),
    }
    for percentile in PERCENTILES:
        found = result.percentile(percentile)
        row[f"p{percentile}_s"] = None if found is None else found.value_s
        row[f"p{percentile}_interval_s"] = None if found is None else [found.low_s, found.high_s]
    return row


def _comparison(c: Comparison) -> dict[str, Any]:
    return {
        "before": c.before,
        "after": c.after,
        "batch": c.batch,
        "scope": c.scope,
        "verdict": c.verdict.value if c.verdict else None,
        "time_ratio": c.ratio.value,
        "time_ratio_interval": None if c.ratio.low is None else [c.ratio.low, c.ratio.high],
        "processes": c.ratio.processes,
        "floor": c.floor,
    }
