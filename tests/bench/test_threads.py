"""The calibration of threads, on a clock that moves only when told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bn_deploy.bench.threads import Choice, Setting, calibrate, settings
from bn_deploy.errors import InputError
from tests.fakes import FakeClock, FakeRunner

FEEDS = {"image": np.zeros((1, 4), np.float32)}
ONE, TWO, TWO_SPINNING = Setting(1, False), Setting(2, False), Setting(2, True)


class Machine:
    """Runners whose calls last as `call_s` says for a setting; remembers what was opened."""

    def __init__(self, call_s: Callable[[Setting, float], float]) -> None:
        self.clock = FakeClock()
        self.opened: list[Setting] = []
        self.open_now = 0
        self._call_s = call_s

    def open(self, threads: int, spinning: bool) -> FakeRunner:
        setting = Setting(threads, spinning)
        self.opened.append(setting)
        machine = self

        class Timed(FakeRunner):
            def __enter__(self) -> Timed:
                machine.open_now += 1
                assert machine.open_now == 1, "an idle runner may spin on the cores of the one that is timed"
                return self

            def __exit__(self, *error: object) -> None:
                machine.open_now -= 1

            def enqueue(self) -> None:
                super().enqueue()
                self.clock.advance(machine._call_s(setting, self.clock.now_s))

        return Timed(self.clock)

    def choice(self, *among: Setting, budget_s: float = 2.0) -> Choice:
        return calibrate(self.open, FEEDS, budget_s, among=among or None, clock=self.clock)


@pytest.mark.parametrize(
    ("times_us", "chosen"),
    [
        ({ONE: 30, TWO: 71, TWO_SPINNING: 48}, ONE),
        ({ONE: 100, TWO: 60, TWO_SPINNING: 70}, TWO),
        ({ONE: 100, TWO: 70, TWO_SPINNING: 60}, TWO_SPINNING),
        ({ONE: 101, TWO: 100, TWO_SPINNING: 100}, ONE),
        ({ONE: 103, TWO: 101, TWO_SPINNING: 100}, TWO),
    ],
    ids=["one", "two", "spinning", "not worth a core", "not worth spinning"],
)
def test_it_takes_the_fastest_that_is_worth_its_cost(times_us: dict[Setting, int], chosen: Setting) -> None:
    choice = Machine(lambda setting, _: times_us[setting] * 1e-6).choice(*times_us)
    assert (choice.threads, choice.spinning) == (chosen.threads, chosen.spinning)
    assert {s: round(m * 1e6) for s, m in choice.medians_s.items()} == times_us
    assert choice.to_json()["tried"][0] == {
        "threads": 1,
        "spinning": False,
        "median_s": pytest.approx(times_us[ONE] * 1e-6),
    }


def test_a_machine_that_gets_slower_does_not_speak_against_the_last() -> None:
    def slowing(setting: Setting, now_s: float) -> float:
        return (100e-6 if setting == ONE else 90e-6) * (1 + 0.5 * now_s)

    machine = Machine(slowing)
    assert machine.choice(ONE, TWO).threads == 2
    assert machine.opened == [ONE, TWO, TWO, ONE]


@pytest.mark.parametrize("call_s", [1e-4, 1e-3])
def test_it_takes_the_time_that_it_is_given(call_s: float) -> None:
    machine = Machine(lambda *_: call_s)
    machine.choice(ONE, TWO, TWO_SPINNING)
    assert machine.clock.now_s == pytest.approx(2.0, rel=0.05)


def test_each_setting_is_tried_once_however_long_it_takes() -> None:
    machine = Machine(lambda *_: 0.5)
    choice = machine.choice(ONE, TWO)
    assert machine.opened == [ONE, TWO]
    assert set(choice.medians_s) == {ONE, TWO}


def test_a_single_setting_is_taken_as_it_is() -> None:
    machine = Machine(lambda *_: 1.0)
    assert machine.choice(TWO) == Choice(2, False, {})
    assert not machine.opened


def test_no_setting_is_refused() -> None:
    with pytest.raises(InputError, match=r"^nothing to calibrate: no setting was given$"):
        calibrate(Machine(lambda *_: 1.0).open, FEEDS, among=())


@pytest.mark.parametrize(
    ("cores", "spins", "wanted"),
    [
        (1, True, ["1 thread"]),
        (2, False, ["1 thread", "2 threads, sleeping"]),
        (2, True, ["1 thread", "2 threads, sleeping", "2 threads, spinning"]),
        (6, False, ["1 thread", "2 threads, sleeping", "4 threads, sleeping", "6 threads, sleeping"]),
    ],
)
def test_the_settings_are_powers_of_two_and_every_core(cores: int, spins: bool, wanted: list[str]) -> None:
    assert [str(setting) for setting in settings(cores, spins=spins)] == wanted


def test_the_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {4, 7}, raising=False)
    assert max(settings(spins=False)).threads == 2
