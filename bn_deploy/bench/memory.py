"""How much memory this process holds, as the system counts it, and how much of the GPU's is in use."""

from __future__ import annotations

from pathlib import Path

from bn_deploy.bench.conditions import ask_gpu

_STATUS = Path("/proc/self/status")


def resident_bytes(status: Path = _STATUS) -> int | None:
    """What of this process is in memory now; None where the system does not tell."""
    return _line(status, "VmRSS")


def peak_bytes(status: Path = _STATUS) -> int | None:
    """The most that `resident_bytes` ever was; None where the system does not tell."""
    return _line(status, "VmHWM")


def gpu_bytes() -> int | None:
    """What of the first GPU's memory is in use, by whomever; None where nvidia-smi tells no such thing."""
    told = ask_gpu(("memory.used",))  # in MiB
    return int(told[0]) << 20 if told and told[0].isdecimal() else None


def _line(status: Path, name: str) -> int | None:
    """A figure of proc(5)'s status file, which is in KiB."""
    try:
        lines = status.read_text(encoding="utf-8", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))
    except (OSError, StopIteration, IndexError, ValueError):
        return None
