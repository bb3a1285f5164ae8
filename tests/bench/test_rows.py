from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bn_deploy.bench.rows import LatencyResult, Run
from bn_deploy.errors import InputError
from bn_deploy.spec import Precision
from tests.bench.make import of_processes, result, run


def test_figures_come_from_all_processes() -> None:
    row = result([run([1000, 2000, 9000], 0), run([3000, 4000], 1)], batch=64)
    assert row.p50_s == 0.000_003
    assert row.process_medians_s == pytest.approx((0.000_002, 0.000_003_5))
    assert list(row.ascending_s) == pytest.approx([1e-6, 2e-6, 3e-6, 4e-6, 9e-6])


def test_throughput_counts_slow_calls_in_full() -> None:
    row = result([run([1000, 1000, 1000, 97_000])], batch=10)
    assert row.throughput_per_s == pytest.approx(10 / 25e-6)


def test_the_interval_over_processes_is_wider_than_that_of_their_calls() -> None:
    row = of_processes([100, 101, 103, 97, 99, 110, 95], calls=400)
    calls, processes = row.percentile(50), row.process_interval_s
    assert calls is not None
    assert processes is not None
    assert processes[0] < calls.low_s < calls.high_s < processes[1]
    assert of_processes([100] * 5).process_interval_s is None


def test_without_every_answer_there_is_no_percentile() -> None:
    row = result([run([1000] * 700, unserved=1)])
    assert row.unserved == 1
    assert row.p50_s is None
    assert row.process_interval_s is None
    assert result([run([1000] * 700)]).p50_s == 1e-6


def test_outliers_are_counted_over_all_processes() -> None:
    row = result([run([1000] * 50 + [90_000], 0), run([1000] * 50 + [1], 1)])
    assert row.outliers == 2
    assert len(row.ascending_s) == 102


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_ns": ()}, "at least one sample"),
        ({"samples_ns": (5, 0), "blocks": (2,)}, "a sample of 0 ns"),
        ({"blocks": (2,)}, r"3 samples are not in blocks of \[2\]"),
        ({"blocks": ()}, "not in blocks"),
        ({"blocks": (3, 0)}, "not in blocks"),
        ({"process": -1}, "below 0"),
        ({"unserved": -1}, "below 0"),
        ({"warmup_calls": -1}, "below 0"),
    ],
)
def test_a_run_refuses(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"samples_ns": (1, 2, 3), "blocks": (3,)}
    with pytest.raises(InputError, match=message):
        Run(**{"process": 0, "warmup_calls": 0, "warmup_ns": 0, **values, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ()}, "different processes"),
        ({"runs": (run(), run())}, "different processes"),
        ({"batch": 0}, "batch size must be at least 1"),
        ({"threads": 0}, "threads must be at least 1"),
        ({"scope": "everything"}, "scope must be one of compute, end_to_end, h2d, d2h"),
    ],
)
def test_a_result_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        result(**changes)


@pytest.mark.parametrize("threads", [1, None])
def test_json_returns_every_sample_unchanged(threads: int | None) -> None:
    runs = [run(range(1, 700), 0), run([29_811, 1, 10**12], 1, blocks=(1, 2), unserved=4)]
    row = result(runs, threads=threads, precision=Precision.BF16, census=None, tf32=True)
    text = json.dumps(row.to_json(), allow_nan=False)
    assert LatencyResult.from_json(json.loads(text)) == row


def test_json_holds_no_derived_figure() -> None:
    assert sorted(result().to_json()) == sorted(LatencyResult.__dataclass_fields__)
    assert sorted(run().to_json()) == sorted(Run.__dataclass_fields__)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda row: row.pop("model"), "the result lacks model"),
        (lambda row: row.update(p50_s=0.1), "unknown fields 'p50_s'"),
        (lambda row: row.update(batch="8"), "batch must be an integer, not a string"),
        (lambda row: row.update(batch=True), "batch must be an integer, not a boolean"),
        (lambda row: row.update(threads="1"), "threads must be an integer or null, not a string"),
        (lambda row: row.update(runs={}), "runs must be a list, not an object"),
        (lambda row: row.update(runs=[]), "different processes"),
        (lambda row: row["runs"][0].pop("blocks"), "run 0 lacks blocks"),
        (lambda row: row["runs"][0].update(samples_ns=[1, 2.0, 3]), r"samples_ns\[1\] must be an integer"),
        (lambda row: row["runs"][0].update(samples_ns=[1, -2, 3]), "run 0: .*no positive time"),
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


def test_names_tell_copies_apart() -> None:
    assert result().name == "ort folded"
    assert result(again=True).name == "ort folded again"
