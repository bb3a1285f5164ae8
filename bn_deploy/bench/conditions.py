"""What the machine did while something was measured: clocks, throttling, load, time stolen by others.

`environment` says what a machine is; this says how it was, which explains a time and forbids no comparison.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_QUERY = ("clocks.sm", "temperature.gpu", "clocks_event_reasons.active")
_WAIT_S = 5.0


@dataclass
class Watch:
    """Looks at the machine now and then, and sums up.

    Attributes:
        root: where `proc` and `sys` lie.
    """

    root: Path = Path("/")
    _mhz: list[float] = field(default_factory=list)
    _gpu: list[list[str]] = field(default_factory=list)
    _steal_s: float | None = None
    _throttled: int | None = None

    def __post_init__(self) -> None:
        self._steal_s, self._throttled = steal_s(self.root), throttle_events(self.root)
        self.look()

    def look(self) -> None:
        """Notes the clocks of the processor's cores."""
        self._mhz += cpu_mhz(self.root)

    def look_at_gpu(self) -> None:
        """Notes the GPU's clock, temperature and reasons for throttling; does nothing without nvidia-smi."""
        if (state := ask_gpu(_QUERY)) is not None:
            self._gpu.append(state)

    def summary(self) -> dict[str, Any]:
        """What was seen, as JSON values; null is what the system does not tell.

        Fields: `load_average` at the end, `steal_s` since the beginning, `cpu_mhz_min` and `cpu_mhz_mean`
        over all cores and looks, `throttle_events` since the beginning, `gpu` with each look's SM clock
        (MHz), temperature (deg C) and active throttle reasons (a bit mask), as nvidia-smi writes them.
        """
        return {
            "load_average": load_average(),
            "steal_s": _since(self._steal_s, steal_s(self.root)),
            "cpu_mhz_min": min(self._mhz, default=None),
            "cpu_mhz_mean": sum(self._mhz) / len(self._mhz) if self._mhz else None,
            "throttle_events": _since(self._throttled, throttle_events(self.root)),
            "gpu": self._gpu,
        }


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 3)


def load_average() -> list[float] | None:
    """Over 1, 5 and 15 minutes; None where the system tells none, as Windows and some containers."""
    try:
        return list(os.getloadavg())
    except (AttributeError, OSError):
        return None


def steal_s(root: Path) -> float | None:
    """Seconds since boot that the host of a virtual machine gave to others, summed over cores.

    The eighth counter of the line "cpu" in /proc/stat, in clock ticks (proc(5)).
    """
    line = (text(root / "proc/stat") or "").partition("\n")[0].split()
    try:
        return int(line[8]) / os.sysconf("SC_CLK_TCK")
    except (IndexError, ValueError, AttributeError):
        return None


def cpu_mhz(root: Path) -> list[float]:
    """The clock of every core now, in MHz, as /proc/cpuinfo has it; empty where it does not."""
    found = []
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "cpu MHz":
            with suppress(ValueError):
                found.append(float(value))
    return found


def throttle_events(root: Path) -> int | None:
    """How often the cores were slowed down for heat since boot; None where no core tells."""
    counts = []
    for file in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"):
        with suppress(ValueError):
            counts.append(int(text(file) or ""))
    return sum(counts) if counts else None


def ask_gpu(fields: Sequence[str]) -> list[str] | None:
    """The values of nvidia-smi's `fields` for the first GPU, as it writes them; None without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - the program is NVIDIA's, the arguments are ours
            [program, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
            capture_output=True,
            check=True,
            timeout=_WAIT_S,
            encoding="utf-8",
        )
        return [value.strip() for value in done.stdout.splitlines()[0].split(",")]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def text(path: Path) -> str | None:
    """A small file's text; None if it cannot be read, or is empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
