from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bn_deploy.engine import portability
from bn_deploy.engine.driver import Gpu
from tests.engine.fake_trt import make
from tests.engine.test_sidecar import KNOWN

GPU = Gpu("NVIDIA Thing", (8, 9), (12, 8))


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portability, "operating_system", lambda: "linux")
    monkeypatch.setattr(portability, "architecture", lambda: "x86_64")


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        (
            {"tensorrt": "tensorrt_rtx"},
            "was built for tensorrt_rtx 11.4.0.106, and this is tensorrt 11.4.0.106",
        ),
        ({"tensorrt_version": "11.3"}, "was built for tensorrt 11.3, and this is tensorrt 11.4.0.106"),
        ({"systems": ("windows",)}, "was built for windows, and this is linux"),
        ({"systems": ("windows", "linux")}, None),
        ({"architecture": "aarch64"}, "was built for aarch64, and this is x86_64"),
        (
            {"compute_capabilities": ("8.6", "9.0")},
            "the compute capabilities 8.6, 9.0, and this is NVIDIA Thing",
        ),
        ({"compute_capabilities": ("8.6", "8.9")}, None),
        ({"compute_capabilities": ("8.0+",)}, None),
        ({"compute_capabilities": ("9.0+",)}, "the compute capabilities 9.0+"),
        ({"compute_capabilities": ("10.0",)}, "the compute capabilities 10.0"),
    ],
)
def test_a_plan_for_another_machine_is_told_from_its_side_car(
    change: dict[str, Any], reason: str | None
) -> None:
    told = portability.mismatch(replace(KNOWN, **change), make("11.4.0.106"), GPU)
    assert told is None if reason is None else reason in (told or "")


COMPATIBLE = {"typing": "strong", "flags": ["VERSION_COMPATIBLE"]}


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize(
    ("built", "settings", "runs"),
    [
        ("11.4.0.106", {}, True),
        ("11.3.0.1", {}, False),
        ("11.3.0.1", COMPATIBLE, True),
        ("10.16.1.11", COMPATIBLE, True),
        ("8.6.1.6", COMPATIBLE, False),  # two majors back
        ("11.5.0.1", COMPATIBLE, False),  # never backwards
        ("11.4.0.106", COMPATIBLE, True),
        ("unknown", COMPATIBLE, False),
    ],
)
def test_a_version_compatible_plan_runs_on_later_versions(
    built: str, settings: dict[str, Any], runs: bool
) -> None:
    known = replace(KNOWN, tensorrt_version=built, settings=settings)
    told = portability.mismatch(known, make("11.4.0.106"), GPU)
    assert (told is None) is runs
