"""Real processes, small and few: what they send comes together, and what goes wrong in them is told."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.measure import CLOCK
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.processes import Event, Worker
from bn_deploy.bench.replicate import Replicated, memory, replicate
from bn_deploy.bench.verdict import log_ratios, noise
from bn_deploy.errors import CheckFailed, InputError, ModelError, NotAvailable
from bn_deploy.spec import T, silent

COMMAND = [sys.executable, "-m", "tests.bench.work"]
OPTIONS = MeasureOptions(batch_sizes=(1, 2), processes=2, budget_s=1.0, rounds=3, warmup_s=0.0)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    np.savez(path, image=np.ones((2, 4), np.float32))
    return path


def busy(what: str, label: str = "few", **changes: Any) -> Candidate:
    return replace(Candidate(label, "busy", Source("work", "", what), 1), **changes)


def measured(inputs: Path, *candidates: Candidate, **changes: Any) -> Replicated:
    options = replace(OPTIONS, **{name: value for name, value in changes.items() if name != "track"})
    return replicate(
        candidates,
        inputs,
        options,
        command=COMMAND,
        deadline=CLOCK() + options.budget_s,
        track=changes.get("track", silent),
    )


def test_two_processes_from_end_to_end(inputs: Path) -> None:
    few = busy("2000")
    found = measured(inputs, few, few.twin(), busy("8000", "many"), budget_s=60.0)
    assert not found.interrupted
    assert [(row.batch, row.name) for row in found.results] == [
        (batch, name) for batch in (1, 2) for name in ("busy few", "busy few again", "busy many")
    ]
    assert all([run.process for run in row.runs] == [0, 1] for row in found.results)
    assert all(len(run.blocks) == 3 for row in found.results for run in row.runs)
    one, _, many = found.results[:3]
    assert (log_ratios(one, many) > 0).all(), "four times as much work takes longer in every process"
    assert len(noise(found.results)) == 2
    assert 0 < found.overhead_s < 1e-4
    assert set(found.conditions) >= {"load_average", "steal_s", "cpu_mhz_min", "throttle_events", "gpu"}


def test_an_interruption_keeps_what_was_done(inputs: Path) -> None:
    def interrupting(items: Iterable[T], _: str, total: int) -> Iterator[T]:
        assert total == 4
        for number, item in enumerate(items):
            yield item
            if number == 2:
                raise KeyboardInterrupt

    found = measured(inputs, busy("2000"), track=interrupting)
    assert found.interrupted
    assert [(row.batch, len(row.runs)) for row in found.results] == [(1, 2), (2, 1)]


def test_an_interruption_before_the_first_sample_stays_one(inputs: Path) -> None:
    def interrupting(items: Iterable[T], _: str, total: int) -> Iterator[T]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(inputs, busy("2000"), track=interrupting)


def test_our_own_errors_come_back(inputs: Path) -> None:
    with pytest.raises(NotAvailable, match="there is no such runtime here"):
        measured(inputs, busy("missing"))


def test_a_worker_that_dies_is_one_line(inputs: Path) -> None:
    message = "worker process 0 ended with status 3 before it was done: the runtime has crashed"
    with pytest.raises(ModelError, match=message) as caught:
        measured(inputs, busy("crash"))
    assert "\n" not in str(caught.value)


def test_a_worker_gets_the_threads_and_none_of_our_settings(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("OMP_PROC_BIND", "close")
    with pytest.raises(NotAvailable, match="threads 3, None"):
        measured(inputs, busy("threads", threads=3))


def test_no_candidate_and_two_of_one_name_are_refused(inputs: Path) -> None:
    with pytest.raises(InputError, match="nothing to time"):
        measured(inputs)
    with pytest.raises(InputError, match="two candidates have the same name: busy few, busy few"):
        measured(inputs, busy("1"), busy("2"))


def test_memory_is_that_of_a_process_of_its_own(inputs: Path) -> None:
    found = memory(busy("2000"), inputs, OPTIONS, command=COMMAND)
    assert found.name == "busy few"
    if found.peak_bytes is None:
        pytest.skip("this system does not tell how much memory a process holds")
    assert found.open_bytes is not None
    assert found.run_bytes is not None
    assert 0 <= found.open_bytes <= found.run_bytes < found.peak_bytes


def test_a_runner_must_be_the_same_in_every_process(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Worker):
        def opened(self) -> Event:
            event = super().opened()
            if self._job.process == 1:
                event["about"][0]["provider"] = "elsewhere"
            return event

    monkeypatch.setattr("bn_deploy.bench.replicate.Worker", Elsewhere)
    with pytest.raises(CheckFailed, match="busy few ran differently in process 1"):
        measured(inputs, busy("2000"))


def test_processes_open_side_by_side_and_are_timed_one_by_one(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []

    class Logged(Worker):
        def opened(self) -> Event:
            log.append(f"open {self._job.process}")
            return super().opened()

        def measure(self, seconds: float) -> Iterator[Event]:
            log.append(f"begin {self._job.process}")
            yield from super().measure(seconds)
            log.append(f"end {self._job.process}")

    monkeypatch.setattr("bn_deploy.bench.replicate.Worker", Logged)
    measured(inputs, busy("2000"), processes=3)
    assert log == [
        *("open 0", "open 1", "begin 0", "end 0", "begin 1", "end 1"),
        *("open 2", "begin 2", "end 2"),
    ]


def test_the_time_for_opening_the_later_ones_is_kept_back(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    class Timed(Worker):
        clock = 0.0

        def opened(self) -> Event:
            Timed.clock += 1.0
            return super().opened()

        def measure(self, seconds: float) -> Iterator[Event]:
            given.append(seconds)
            yield from super().measure(0.0)

    monkeypatch.setattr("bn_deploy.bench.replicate.Worker", Timed)
    options = replace(OPTIONS, processes=5)
    replicate(
        *([busy("2000")], inputs, options),
        command=COMMAND,
        deadline=100.0,
        track=silent,
        clock=lambda: Timed.clock,
    )
    # Two open in two seconds, the last one alone in one; what timing takes is not on this clock.
    assert given == [(100 - 2 - 4) / 5, (100 - 2 - 4) / 4, (100 - 4 - 2) / 3, (100 - 4 - 2) / 2, 100 - 5]


def test_no_process_is_left_behind(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Worker] = []

    class Kept(Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self)

    monkeypatch.setattr("bn_deploy.bench.replicate.Worker", Kept)
    with pytest.raises(NotAvailable):
        measured(inputs, busy("missing"))
    assert len(started) == 2
    assert all(worker._process.returncode is not None for worker in started)
