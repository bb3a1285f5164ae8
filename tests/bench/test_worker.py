from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.job import Job
from bn_deploy.bench.measure import BLOCK_CALLS
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.worker import SEGMENTS, events, work
from bn_deploy.errors import InputError, NotAvailable
from tests.fakes import FakeClock, FakeRunner

OPTIONS = MeasureOptions(batch_sizes=(1, 3), budget_s=1e9, rounds=4, warmup_s=0.0)


def candidates(*labels: str) -> tuple[Candidate, ...]:
    return tuple(Candidate(label, "fake", Source("work", "", label), 1) for label in labels)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "inputs.npz", image=np.arange(8, dtype=np.float32).reshape(2, 4))
    return tmp_path / "inputs.npz"


class Opened:
    """Makes fake runners on one clock and remembers in which order."""

    def __init__(self, **spend_s: float) -> None:
        self.clock = FakeClock()
        self.order: list[str] = []
        self.runners: dict[str, FakeRunner] = {}
        self.spend_s = spend_s or {"enqueue": 0.001}

    def __call__(self, candidate: Candidate) -> FakeRunner:
        self.order.append(candidate.label)
        self.runners[candidate.label] = FakeRunner(self.clock, self.spend_s)
        return self.runners[candidate.label]

    def all(self, job: Job, seconds: float = 1e9) -> list[dict[str, Any]]:
        return list(events(job, self, lambda: seconds, clock=self.clock))


def job(inputs: Path, labels: Sequence[str] = ("a", "b"), **changes: Any) -> Job:
    return replace(Job(candidates(*labels), inputs, OPTIONS, 0), **changes)


def test_a_job_opens_everything_times_every_cell_and_is_done(inputs: Path) -> None:
    found = Opened().all(job(inputs))
    assert [event["event"] for event in found] == ["opened", "started", "cell", "cell", "done"]
    assert [about["provider"] for about in found[0]["about"]] == ["FakeProvider"] * 2
    assert [(event["batch"], event["scope"]) for event in found[2:4]] == [
        (1, "end_to_end"),
        (3, "end_to_end"),
    ]
    for run in (run for event in found[2:4] for run in event["runs"]):
        assert run["blocks"] == [BLOCK_CALLS] * 4
        assert run["samples_ns"] == [1_000_000] * BLOCK_CALLS * 4
        assert run["warmup_calls"] == 3
    assert found[4] == {"event": "done", "census": None, "memory": None, "gpu_memory": None}
    json.dumps(found, allow_nan=False)


def test_the_order_of_opening_is_drawn_for_each_process(inputs: Path) -> None:
    orders = []
    for process in (*range(8), 0):
        opened = Opened()
        opened.all(job(inputs, "abcd", process=process))
        orders.append("".join(opened.order))
    assert all(sorted(order) == list("abcd") for order in orders)
    assert len(set(orders)) > 3
    assert orders[0] == orders[-1], "and is that of the seed"


def test_rows_are_repeated_to_fill_a_batch(inputs: Path) -> None:
    opened = Opened()
    opened.all(job(inputs, "a"))
    assert opened.runners["a"].fetch()["logits"].tolist() == [[6.0], [22.0], [6.0]]


def test_all_runners_are_closed(inputs: Path) -> None:
    opened = Opened()
    opened.all(job(inputs))
    assert all(runner.verbs[-1] == "close" for runner in opened.runners.values())


def test_a_batch_size_that_is_refused_is_found_before_anything_is_timed(inputs: Path) -> None:
    runner = FakeRunner(largest_batch=2)
    with pytest.raises(InputError, match="fake a does not take batch size 3: batch 3 is above 2"):
        list(events(job(inputs, "a"), lambda _: runner, lambda: 1e9))
    assert "enqueue" not in runner.verbs


def test_time_left_by_one_cell_goes_to_the_next(inputs: Path) -> None:
    options = replace(OPTIONS, rounds=1000)
    opened = Opened(enqueue=0.001)
    _, _, small, large, _ = opened.all(job(inputs, "a", options=options), seconds=2.0)
    blocks = [len(event["runs"][0]["blocks"]) for event in (small, large)]
    assert blocks[0] == pytest.approx(1.0 / 0.011, rel=0.05), "half of the time"
    assert blocks[1] == pytest.approx(blocks[0], rel=0.05)
    opened = Opened(enqueue=0.001)
    _, _, small, large, _ = opened.all(job(inputs, "a", options=replace(OPTIONS, rounds=120)), seconds=2.0)
    assert len(large["runs"][0]["blocks"]) > 85


def test_the_time_counts_from_when_it_is_told(inputs: Path) -> None:
    opened = Opened(enqueue=0.001)

    def told() -> float:
        opened.clock.advance(1000.0)
        return 0.1

    options = replace(OPTIONS, rounds=1000)
    _, _, small, _, _ = events(job(inputs, "a", options=options), opened, told, clock=opened.clock)
    assert 4 <= len(small["runs"][0]["blocks"]) <= 6


def test_a_server_is_sent_requests_at_random(inputs: Path) -> None:
    options = MeasureOptions(
        batch_sizes=(1,), scenario="server", rate_per_s=2000.0, budget_s=1.0, warmup_s=0.0
    )
    runners = {label: FakeRunner() for label in "ab"}
    found = list(events(job(inputs, "ab", options=options), lambda c: runners[c.label], lambda: 0.4))
    runs = found[2]["runs"]
    assert [len(run["blocks"]) for run in runs] == [SEGMENTS] * 2
    assert all(sum(run["blocks"]) == len(run["samples_ns"]) for run in runs)
    assert all(20 < len(run["samples_ns"]) + run["unserved"] < 1200 for run in runs)


def test_cold_calls_get_other_inputs_each_time(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bn_deploy.bench.caches.last_level_bytes", lambda: 512)
    seen: list[float] = []

    class Cpu(FakeRunner):
        device = "cpu"

        def enqueue(self) -> None:
            super().enqueue()
            assert self._rows is not None
            seen.append(float(self._rows[0, 0]))

    options = replace(OPTIONS, regime="cold", batch_sizes=(1,))
    clock = FakeClock()
    list(
        events(
            job(inputs, "a", options=options),
            lambda _: Cpu(clock, {"enqueue": 1e-3}),
            lambda: 1e9,
            clock=clock,
        )
    )
    timed = seen[4:14]
    assert sorted(set(timed)) == [0.0, 4.0]
    assert timed == [timed[0], timed[1]] * 5, "the two rows in turn"


def test_where_a_gpu_computes_its_caches_are_emptied_before_each_call(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Caches:
        def __enter__(self) -> Caches:
            return self

        def __exit__(self, *_: object) -> None:
            log.append("closed")

        def evict(self) -> None:
            log.append("evict")

    class Logged(FakeRunner):
        def enqueue(self) -> None:
            super().enqueue()
            log.append("call")

    monkeypatch.setattr("bn_deploy.bench.worker.GpuCaches", Caches)
    monkeypatch.setattr("bn_deploy.bench.caches.last_level_bytes", lambda: 512)
    clock = FakeClock()
    options = replace(OPTIONS, regime="cold", batch_sizes=(1,), rounds=1)
    opened = Logged(clock, {"enqueue": 1e-3})
    list(events(job(inputs, "a", options=options), lambda _: opened, lambda: 1e9, clock=clock))
    timed = log[log.index("evict") :]
    assert timed == ["evict", "call"] * BLOCK_CALLS + ["closed"]


def test_a_probe_times_nothing_and_notes_memory(inputs: Path) -> None:
    opened = Opened()
    first, _, done = opened.all(job(inputs, "a", probe=True))
    assert first["event"] == "opened"
    assert len(done["memory"]) == 4
    assert len(done["gpu_memory"]) == 2, "the stand-in computes elsewhere"
    assert opened.runners["a"].verbs.count("fetch") == len(OPTIONS.batch_sizes)


def test_the_loaded_graph_is_asked_for_after_the_timing(inputs: Path) -> None:
    log: list[str] = []

    class Shown(FakeRunner):
        def loaded_census(self) -> dict[str, int]:
            log.extend(self.verbs[-1:])
            return {"Conv": 2}

    clock = FakeClock()
    *_, done = events(
        job(inputs, "a", describe=True), lambda _: Shown(clock, {"enqueue": 1e-3}), lambda: 1e9, clock=clock
    )
    assert done["census"] == [{"Conv": 2}]
    assert log == ["fetch"]


def test_our_own_errors_go_home_as_an_event(inputs: Path) -> None:
    out = io.StringIO()

    def refuse(_: Candidate) -> FakeRunner:
        raise NotAvailable("no such runtime")

    work(io.StringIO(json.dumps(job(inputs).to_json()) + "\n"), refuse, out)
    assert json.loads(out.getvalue()) == {
        "event": "failed",
        "kind": "NotAvailable",
        "message": "no such runtime",
    }


@pytest.mark.parametrize(
    ("asked", "expected"), [(True, ["opened", "started", "cell", "cell", "done"]), (False, ["opened"])]
)
def test_it_times_only_when_it_is_told_to(asked: bool, expected: list[str], inputs: Path) -> None:
    lines = json.dumps(job(inputs).to_json()) + "\n" + '{"seconds": 0.0}\n' * asked
    out = io.StringIO()
    runners = [FakeRunner(), FakeRunner()]
    left = iter(runners)
    work(io.StringIO(lines), lambda _: next(left), out)
    assert [json.loads(line)["event"] for line in out.getvalue().splitlines()] == expected
    assert all(runner.verbs[-1] == "close" for runner in runners)
