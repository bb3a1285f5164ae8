from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bn_deploy.bench.stats import LatencyResult, required_samples
from bn_deploy.errors import InputError
from bn_deploy.spec import Precision


def result(samples_s: tuple[float, ...] = (0.002, 0.001, 0.003), **changes: Any) -> LatencyResult:
    values: dict[str, Any] = {
        "model": "folded",
        "backend": "ort",
        "provider": "CPUExecutionProvider",
        "device": "CPU",
        "precision": Precision.FP32,
        "threads": 1,
        "batch": 8,
        "scope": "end_to_end",
        "samples_s": samples_s,
        "warmup_calls": 3,
        "warmup_s": 0.25,
    }
    return LatencyResult(**{**values, **changes})


def milliseconds(count: int) -> tuple[float, ...]:
    """1 ms, 2 ms, ... in a fixed random order."""
    order = np.random.default_rng(0).permutation(count)
    return tuple((int(position) + 1) / 1000 for position in order)


# From the published rules; LoadGen's constants are the second column.
@pytest.mark.parametrize(
    ("percentile", "none_above", "one_above"), [(50, 7, 11), (90, 44, 64), (95, 90, 130), (99, 459, 662)]
)
def test_required_samples_are_those_of_mlperf(percentile: int, none_above: int, one_above: int) -> None:
    assert required_samples(percentile, 99, over_latency=0) == none_above
    assert required_samples(percentile) == one_above


def test_required_samples_can_be_very_few() -> None:
    assert required_samples(1, 90) == 2, "1 - 0.99 ** 2 is about 2 %"


def test_required_samples_grow_with_the_confidence() -> None:
    assert required_samples(90, 90) < required_samples(90, 95) < required_samples(90, 99)


@pytest.mark.parametrize("arguments", [(0,), (100,), (90, 0), (90, 100), (90, 99, -1)])
def test_required_samples_refuses_what_no_sample_can_show(arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no such statement"):
        required_samples(*arguments)


@pytest.mark.parametrize(
    ("count", "p50_s", "p90_s", "p99_s"),
    [
        (1, 0.001, None, None),
        (2, 0.001, None, None),
        (3, 0.002, None, None),
        (63, 0.032, None, None),
        (64, 0.032, 0.058, None),
        (100, 0.050, 0.090, None),
        (661, 0.331, 0.595, None),
        (662, 0.331, 0.596, 0.656),
        (1000, 0.500, 0.900, 0.990),
    ],
)
def test_percentiles_are_measured_samples_or_absent(
    count: int, p50_s: float, p90_s: float | None, p99_s: float | None
) -> None:
    row = result(milliseconds(count))
    assert (row.p50_s, row.p90_s, row.p99_s) == (p50_s, p90_s, p99_s)


def test_an_outlier_counts() -> None:
    row = result((*[0.001] * 63, 10.0))
    assert row.mean_s == pytest.approx(10.063 / 64, rel=1e-12)
    assert max(row.samples_s) == 10.0
    assert result((*[0.001] * 57, *[10.0] * 7)).p90_s == 10.0


def test_the_other_figures() -> None:
    row = result((0.004, 0.001, 0.002), batch=64)
    assert row.minimum_s == 0.001
    assert row.mean_s == pytest.approx(0.007 / 3, rel=1e-12)
    assert row.throughput_per_s == 64 / 0.002
    assert row.samples_s == (0.004, 0.001, 0.002), "samples stay in the order of the calls"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_s": ()}, "at least one sample"),
        ({"samples_s": (0.1, 0.0)}, "sample 1 is 0.0 s"),
        ({"samples_s": (-0.1,)}, "sample 0 is -0.1 s"),
        ({"samples_s": (math.nan,)}, "sample 0 is nan s"),
        ({"samples_s": (math.inf,)}, "sample 0 is inf s"),
        ({"batch": 0}, "batch size must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"scope": "everything"}, "scope must be one of compute, end_to_end"),
        ({"warmup_calls": -1}, "no warm-up"),
        ({"warmup_s": -1.0}, "no warm-up"),
        ({"warmup_s": math.nan}, "no warm-up"),
    ],
)
def test_a_result_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        result(**changes)


@pytest.mark.parametrize("threads", [1, None])
def test_json_returns_every_sample_unchanged(threads: int | None) -> None:
    row = result((*milliseconds(700), 0.000_029_811, 1e-9), threads=threads, precision=Precision.BF16)
    text = json.dumps(row.to_json(), allow_nan=False)
    assert LatencyResult.from_json(json.loads(text)) == row


def test_json_holds_no_derived_figure() -> None:
    assert sorted(result().to_json()) == sorted(LatencyResult.__dataclass_fields__)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row.pop("model"), "the result lacks model"),
        (lambda row: row.update(p50_s=0.1), "unknown fields 'p50_s'"),
        (lambda row: row.update(batch="8"), "batch must be an integer, not a string"),
        (lambda row: row.update(batch=True), "batch must be an integer, not a boolean"),
        (lambda row: row.update(batch=8.0), "batch must be an integer, not a decimal number"),
        (lambda row: row.update(threads="1"), "threads must be an integer or null, not a string"),
        (lambda row: row.update(warmup_s=None), "warmup_s must be a decimal number, not null"),
        (lambda row: row.update(samples_s=0.1), "samples_s must be a list, not a decimal number"),
        (lambda row: row.update(samples_s=[0.1, "0.1"]), r"samples_s\[1\] must be a decimal number"),
        (lambda row: row.update(samples_s=[10**400]), r"samples_s\[0\] must be a decimal number"),
        (lambda row: row.update(samples_s=[]), "at least one sample"),
        (lambda row: row.update(samples_s=[math.nan]), "the result: .*no positive time"),
        (lambda row: row.update(precision="fp12"), "no precision 'fp12'"),
        (lambda row: row.update(scope="all"), "scope must be one of"),
    ],
)
def test_reading_refuses(damage: Callable[[dict[str, Any]], object], message: str) -> None:
    row = result().to_json()
    damage(row)
    with pytest.raises(InputError, match=message):
        LatencyResult.from_json(row)


def test_reading_refuses_what_is_no_object() -> None:
    with pytest.raises(InputError, match="result 3 must be an object, not a list"):
        LatencyResult.from_json([], "result 3")
