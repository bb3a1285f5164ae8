"""The machine and the versions that a measurement depends on.

A fact that cannot be read is null, never guessed. Versions come from the installed packages' metadata, so
that describing the machine loads no framework.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bn_deploy.bench.conditions import ask_gpu, load_average, steal_s, text

DISTRIBUTIONS: tuple[str, ...] = (
    "bn-deploy",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
)

MUST_MATCH: tuple[str, ...] = (
    "machine",
    "cpu_model",
    "logical_cores",
    "usable_cores",
    "python",
    "gpu_name",
    "gpu_driver",
)


def environment(root: Path = Path("/")) -> dict[str, Any]:
    """Describes this machine now, as JSON values.

    Fields: `python`, `platform`, `machine` (the instruction set), `cpu_model`, `logical_cores`,
    `usable_cores` (those that this process may run on), `governor` (of the first core),
    `load_average` (over 1, 5 and 15 minutes), `steal_s` (time since boot that the host of a virtual machine
    gave to others, summed over cores), `versions` (by distribution; null if not installed), `gpu_name` and
    `gpu_driver` (of the first GPU, as nvidia-smi has them).

    Args:
        root: where `proc` and `sys` lie.
    """
    gpu_name, gpu_driver = ask_gpu(("name", "driver_version")) or (None, None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine() or None,
        "cpu_model": _cpu_model(root),
        "logical_cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "governor": text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": load_average(),
        "steal_s": steal_s(root),
        "versions": {name: _version(name) for name in DISTRIBUTIONS},
        "gpu_name": gpu_name,
        "gpu_driver": gpu_driver,
    }


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """What forbids comparing times from two environments: each differing fact, with both values.

    The facts are those of MUST_MATCH and every version. Load, governor and steal time vary from run to run
    on one machine: they explain a difference and do not forbid the comparison. Two unknowns count as equal.
    """
    found = [
        _difference(key, a.get(key), b.get(key), "unknown") for key in MUST_MATCH if a.get(key) != b.get(key)
    ]
    ours, theirs = a.get("versions", {}), b.get("versions", {})
    return found + [
        _difference(name, ours.get(name), theirs.get(name), "not installed")
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _difference(key: str, ours: object, theirs: object, null: str) -> str:
    left, right = (null if value is None else str(value) for value in (ours, theirs))
    return f"{key}: {left} / {right}"


def _cpu_model(root: Path) -> str | None:
    for line in (text(root / "proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip() or None
    return None


def _usable_cores() -> int | None:
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only
    return None if affinity is None else len(affinity(0))


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
