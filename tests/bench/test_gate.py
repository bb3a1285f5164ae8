from __future__ import annotations

from typing import Any

import pytest

from bn_deploy.bench.gate import against
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.verdict import Verdict
from bn_deploy.errors import InputError
from tests.bench.make import ENVIRONMENT, of_processes, record

SPREAD = [100.0, 100.6, 99.4, 100.3, 99.7, 100.1, 99.9]


def measured(factor: float, *, spread: float = 1.0, **changes: Any) -> LatencyRecord:
    medians = [100 * factor + (one - 100) * spread for one in SPREAD]
    return record(results=(of_processes(medians, **changes),))


@pytest.mark.parametrize(
    ("factor", "spread", "verdict", "code"),
    [
        (1.00, 1.0, Verdict.SAME, 0),
        (1.02, 1.0, Verdict.SAME, 0),
        (0.90, 1.0, Verdict.FASTER, 0),
        (1.06, 1.0, Verdict.SLOWER, 1),
        (1.03, 1.0, Verdict.UNDECIDED, 4),
        (1.06, 30.0, Verdict.UNDECIDED, 4),
    ],
)
def test_only_a_sure_slow_down_fails(factor: float, spread: float, verdict: Verdict, code: int) -> None:
    gate = against(measured(1.0), measured(factor, spread=spread), 0.03)
    assert [row.verdict for row in gate.rows] == [verdict]
    assert gate.exit_code == code


def test_what_passes_is_what_was_allowed() -> None:
    assert against(measured(1.0), measured(1.06), 0.10).exit_code == 0


def test_a_network_that_differs_from_itself_by_more_allows_more() -> None:
    noisy = measured(1.06)
    twin = of_processes([one * 1.06 * 1.2 for one in SPREAD], again=True, seed=1)
    gate = against(measured(1.0), record(results=(*noisy.results, twin)), 0.03)
    assert gate.rows[0].allowed == pytest.approx(0.2, abs=0.01)
    assert gate.exit_code == 0


def test_too_few_processes_decide_nothing() -> None:
    few = record(results=(of_processes(SPREAD[:3]),))
    gate = against(few, few, 0.03)
    assert gate.rows[0].verdict is None
    assert gate.exit_code == 4


def test_a_row_that_is_gone_is_told_and_not_passed() -> None:
    before = record(results=(*measured(1.0).results, *measured(1.0, batch=64).results))
    gate = against(before, measured(1.0), 0.03)
    assert gate.missing == ("ort folded, batch 64",)
    assert gate.exit_code == 4


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(InputError, match="no row in common"):
        against(measured(1.0), measured(1.0, model="native"), 0.03)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": {**ENVIRONMENT, "cpu_model": "other"}}, "cpu_model: unknown / other"),
        ({"environment": {**ENVIRONMENT, "versions": {"numpy": "3.0"}}}, "numpy: 2.0 / 3.0"),
        ({"options": MeasureOptions(regime="cold")}, "regime: warm / cold"),
        ({"options": MeasureOptions(scenario="offline")}, "scenario: single / offline"),
    ],
)
def test_unlike_measurements_are_refused_unless_the_user_insists(
    changes: dict[str, Any], reason: str
) -> None:
    results = measured(1.0).results
    with pytest.raises(InputError, match=reason):
        against(record(results=results), record(results=results, **changes), 0.03)
    gate = against(record(results=results), record(results=results, **changes), 0.03, anyway=True)
    assert gate.differences == (reason,)
    assert gate.to_json()["differences"] == [reason]


def test_a_cuda_graph_that_only_one_of_the_two_had_is_told() -> None:
    then, now = measured(1.0, cuda_graph=True), measured(1.0, cuda_graph=False, no_cuda_graph="why not")
    with pytest.raises(InputError, match="ort folded, batch 8: a CUDA graph / no CUDA graph"):
        against(then, now, 0.03)
    assert against(then, now, 0.03, anyway=True).differences
    assert against(measured(1.0), measured(1.0, cuda_graph=False), 0.03).differences == (), "none either way"


def test_how_long_and_in_which_order_may_differ() -> None:
    results = measured(1.0).results
    other = record(results=results, options=MeasureOptions(seed=5, budget_s=1.0, processes=9))
    assert against(record(results=results), other, 0.03).differences == ()
