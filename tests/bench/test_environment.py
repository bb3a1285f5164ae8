from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.bench.environment import DISTRIBUTIONS, differences, environment

CPUINFO = """\
processor	: 0
model name	: Example CPU @ 3.00GHz
flags		: a b

processor	: 1
model name	: Other
"""
STAT = "cpu  100 0 100 9000 0 0 0 250 0 0\ncpu0 50 0 50 4500 0 0 0 125 0 0\n"


def machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_facts_are_read_from_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_CLK_TCK": 100}[name], raising=False)
    root = machine(
        tmp_path,
        {
            "proc/cpuinfo": CPUINFO,
            "proc/stat": STAT,
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        },
    )
    facts = environment(root)
    assert facts["cpu_model"] == "Example CPU @ 3.00GHz"
    assert facts["steal_s"] == 2.5
    assert facts["governor"] == "performance"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc/cpuinfo": "processor : 0\n", "proc/stat": "cpu 1 2 3\n"},
        {"proc/cpuinfo": "model name :\n", "proc/stat": "cpu a b c d e f g h i\n"},
    ],
    ids=["no files", "without the fields", "damaged"],
)
def test_a_fact_that_cannot_be_read_is_null(files: dict[str, str], tmp_path: Path) -> None:
    facts = environment(machine(tmp_path, files))
    assert [facts[key] for key in ("cpu_model", "steal_s", "governor")] == [None] * 3


@pytest.mark.parametrize(
    ("told", "expected"), [(["Example GPU", "580.1"], ["Example GPU", "580.1"]), (None, [None, None])]
)
def test_the_gpu_is_named(
    told: list[str] | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bn_deploy.bench.environment.ask_gpu", lambda fields: told)
    facts = environment()
    assert [facts["gpu_name"], facts["gpu_driver"]] == expected


def test_a_system_without_load_or_affinity_says_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "getloadavg", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    facts = environment(tmp_path)
    assert (facts["load_average"], facts["usable_cores"]) == (None, None)


def test_versions_are_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    facts = environment()
    assert set(facts["versions"]) == set(DISTRIBUTIONS)
    assert facts["versions"]["numpy"] == np.__version__
    monkeypatch.setattr("bn_deploy.bench.environment.DISTRIBUTIONS", ("no-such-distribution-here",))
    assert environment()["versions"] == {"no-such-distribution-here": None}


def test_it_is_json() -> None:
    facts = environment()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_describing_the_machine_loads_no_framework() -> None:
    code = (
        "import sys; from bn_deploy.bench.environment import environment; environment();"
        "print(sorted({'numpy', 'torch', 'onnx', 'onnxruntime', 'tensorrt'} & sys.modules.keys()))"
    )
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=here)
    assert done.stdout.strip() == "[]"


BASE: dict[str, Any] = {
    "python": "3.11.7",
    "machine": "x86_64",
    "cpu_model": "A",
    "logical_cores": 8,
    "usable_cores": 8,
    "governor": None,
    "load_average": [0.1, 0.1, 0.1],
    "steal_s": 1.0,
    "gpu_name": None,
    "gpu_driver": None,
    "versions": {"numpy": "2.0", "tensorrt": None},
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda facts: None, []),
        (lambda facts: facts.update(load_average=None, steal_s=9.0, governor="powersave"), []),
        (lambda facts: facts.update(cpu_model="B"), ["cpu_model: A / B"]),
        (lambda facts: facts.update(logical_cores=4), ["logical_cores: 8 / 4"]),
        (lambda facts: facts.update(usable_cores=None), ["usable_cores: 8 / unknown"]),
        (lambda facts: facts.update(python="3.12.0"), ["python: 3.11.7 / 3.12.0"]),
        (lambda facts: facts.update(machine="aarch64"), ["machine: x86_64 / aarch64"]),
        (lambda facts: facts.update(gpu_name="G"), ["gpu_name: unknown / G"]),
        (lambda facts: facts.update(gpu_driver="1"), ["gpu_driver: unknown / 1"]),
        (lambda facts: facts["versions"].update(numpy="2.1"), ["numpy: 2.0 / 2.1"]),
        (lambda facts: facts["versions"].update(tensorrt="10"), ["tensorrt: not installed / 10"]),
        (lambda facts: facts["versions"].pop("numpy"), ["numpy: 2.0 / not installed"]),
        (
            lambda facts: (facts.pop("cpu_model"), facts["versions"].update(torch="2")),
            ["cpu_model: A / unknown", "torch: not installed / 2"],
        ),
    ],
)
def test_differences_name_what_forbids_a_comparison(
    change: Callable[[dict[str, Any]], object], expected: list[str]
) -> None:
    other = {**BASE, "versions": dict(BASE["versions"])}
    change(other)
    assert differences(BASE, other) == expected
