from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from bn_deploy.bench.conditions import Watch, ask_gpu, cpu_mhz, throttle_events
from bn_deploy.bench.memory import peak_bytes, resident_bytes

STAT = "cpu  100 0 100 9000 0 0 0 {steal} 0 0\n"


def machine(root: Path, *, steal: int, mhz: tuple[float, ...], throttled: tuple[int, ...]) -> None:
    files = {
        "proc/stat": STAT.format(steal=steal),
        "proc/cpuinfo": "".join(f"processor : {n}\ncpu MHz\t\t: {clock}\n" for n, clock in enumerate(mhz)),
        **{
            f"sys/devices/system/cpu/cpu{n}/thermal_throttle/core_throttle_count": str(count)
            for n, count in enumerate(throttled)
        },
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_watch_sums_up_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name], raising=False)
    machine(tmp_path, steal=100, mhz=(3000.0, 2000.0), throttled=(5, 1))
    watch = Watch(tmp_path)
    machine(tmp_path, steal=350, mhz=(1000.0, 2000.0), throttled=(7, 1))
    watch.look()
    seen = watch.summary()
    assert (seen["steal_s"], seen["throttle_events"]) == (2.5, 2)
    assert (seen["cpu_mhz_min"], seen["cpu_mhz_mean"]) == (1000.0, 2000.0)


def test_what_the_system_does_not_tell_is_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    watch = Watch(tmp_path)
    watch.look_at_gpu()
    seen = watch.summary()
    assert [seen[key] for key in ("steal_s", "throttle_events", "cpu_mhz_min", "cpu_mhz_mean")] == [None] * 4
    assert seen["gpu"] == []


def test_damaged_figures_are_left_out(tmp_path: Path) -> None:
    machine(tmp_path, steal=0, mhz=(), throttled=())
    (tmp_path / "proc/cpuinfo").write_text("cpu MHz : fast\ncpu MHz : 5.5\n")
    assert cpu_mhz(tmp_path) == [5.5]
    assert throttle_events(tmp_path) is None


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("echo '1410, 41, 0x0'", ["1410", "41", "0x0"]),
        ("exit 9", None),
        ("true", None),
    ],
)
def test_the_gpu_is_asked_through_its_own_program(
    program: str, expected: list[str] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.name != "posix":
        pytest.skip("the stand-in for nvidia-smi is a shell script")
    stand_in = tmp_path / "nvidia-smi"
    stand_in.write_text(f"#!/bin/sh\n{program}\n")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr("shutil.which", lambda _: str(stand_in))
    assert ask_gpu(("clocks.sm", "temperature.gpu", "clocks_event_reasons.active")) == expected


def test_memory_is_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tx\nVmHWM:\t  12 kB\nVmRSS:\t  10 kB\n")
    assert (resident_bytes(status), peak_bytes(status)) == (10 * 1024, 12 * 1024)
    status.write_text("VmRSS:\n")
    assert (resident_bytes(status), peak_bytes(tmp_path / "none")) == (None, None)
