from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bn_deploy.engine import api, driver
from bn_deploy.engine.driver import Gpu
from bn_deploy.errors import ModelError, NotAvailable
from tests.engine.fake_trt import RTX, VERSIONS, make

GPU = Gpu("NVIDIA Thing", (8, 9), (12, 8))


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    api._load.cache_clear()
    yield
    api._load.cache_clear()


def install(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> None:
    """Makes `import_module` know these modules only; an exception is raised instead."""

    def load(name: str) -> Any:
        found = modules.get(name, ModuleNotFoundError(f"No module named {name!r}", name=name))
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(api, "import_module", load)


def whole(version: str) -> Any:
    return SimpleNamespace(__version__=version, Builder=1, OnnxParser=1, Runtime=1)


def test_with_a_gpu_tensorrt_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    install(monkeypatch, tensorrt=whole("11.4"), tensorrt_rtx=whole("1.7"))
    assert str(api.find()) == "TensorRT 11.4"
    assert api.why_not() is None


def test_without_a_gpu_the_one_that_builds_anywhere_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: "no driver")
    install(monkeypatch, tensorrt=whole("11.4"), tensorrt_rtx=whole("1.7"))
    assert str(api.find()) == "TensorRT-RTX 1.7"
    assert api.find("tensorrt").name == "tensorrt"


def test_a_broken_one_gives_way_to_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    install(monkeypatch, tensorrt=OSError("libnvinfer.so.11: cannot open\nmore"), tensorrt_rtx=whole("1.7"))
    assert api.find().name == "tensorrt_rtx"


def test_none_at_all_names_both_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(NotAvailable) as refusal:
        api.find()
    assert "bn-deploy[rtx]" in str(refusal.value)
    assert "bn-deploy[gpu]" in str(refusal.value)
    assert api.why_not() == str(refusal.value)


def lean(version: str) -> Any:
    return SimpleNamespace(__version__=version, Runtime=1)


def test_the_lean_runtime_stands_in_for_tensorrt_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    install(monkeypatch, tensorrt_lean=lean("11.4"))
    found = api.find("tensorrt")
    assert str(found) == "TensorRT lean runtime 11.4"
    assert not found.builds
    assert api.why_not() is None
    with pytest.raises(NotAvailable, match=r"tensorrt_rtx is not installed; .*bn-deploy\[rtx\]"):
        api.find("tensorrt_rtx")


def test_whatever_builds_comes_before_the_lean_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    install(monkeypatch, tensorrt_lean=lean("11.4"), tensorrt_rtx=whole("1.7"))
    assert api.find().name == "tensorrt_rtx"
    assert api.find("tensorrt").name == "tensorrt_lean"


def test_no_module_is_imported_because_a_side_car_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, antigravity=whole("1"), tensorrt_lean=lean("11.4"))
    for name in ("antigravity", "tensorrt_lean"):
        with pytest.raises(NotAvailable, match=f"^no TensorRT called '{name}' builds plans$"):
            api.find(name)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt"), "tensorrt is not installed"),
        (
            ModuleNotFoundError("No module named 'tensorrt_libs'", name="tensorrt_libs"),
            "does not load .*_libs",
        ),
        (OSError("libnvinfer.so.11: cannot open\nmore"), r"does not load \(libnvinfer.so.11: cannot open\)"),
        (RuntimeError(), r"does not load \(RuntimeError\)"),
        (ModuleType("tensorrt"), r"incomplete \(it has no __version__\)"),
        (SimpleNamespace(__version__="11"), r"incomplete \(it has no Builder\)"),
    ],
)
def test_each_way_to_be_unusable_is_told_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, found: Any, reason: str
) -> None:
    install(monkeypatch, tensorrt=found)
    with pytest.raises(NotAvailable, match=reason + r".*bn-deploy\[gpu\]"):
        api.find("tensorrt")


@pytest.mark.parametrize(
    ("version", "flags", "typed", "level"),
    [("8.5.3.1", 0b01, False, False), ("10.16.1.11", 0b11, True, True), ("11.4.0.106", 0, True, True)],
)
def test_each_version_is_asked_in_its_own_way(version: str, flags: int, typed: bool, level: bool) -> None:
    trt = make(version)
    assert trt.network_flags == flags
    assert trt.strongly_typed is typed
    assert trt.has_optimization_level is level
    assert trt.has_tf32_flag
    assert not trt.builds_without_gpu
    assert not trt.compiles_on_target
    assert trt.cpu_only_flag is None
    assert trt.has_timing_cache
    assert trt.has_progress_monitor is trt.has_version_compatible is trt.has_host_code_switch is level
    assert trt.loads_lean_runtimes is bool(trt.hardware_levels) is level
    assert trt.compute_capabilities == {}
    assert trt.plan_systems == (api.operating_system(),)


def test_rtx_makes_its_kernels_where_the_plan_runs() -> None:
    trt = make(RTX)
    assert trt.network_flags == 0
    assert trt.builds_without_gpu
    assert trt.compiles_on_target
    assert trt.has_progress_monitor
    assert not trt.has_timing_cache
    assert not trt.has_version_compatible
    assert not trt.hardware_levels
    assert "8.6" in trt.compute_capabilities
    assert trt.plan_systems == ("linux", "windows")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_type_that_numpy_has_is_known_by_name(version: str) -> None:
    trt = make(version)
    for name, kind in trt.module.DataType.__members__.items():
        if name in api.NUMPY_TYPES:
            assert trt.numpy_type(kind, "x") == api.NUMPY_TYPES[name]
        else:
            with pytest.raises(ModelError, match=f"tensor x has the type {name}"):
                trt.numpy_type(kind, "x")


def test_there_is_one_logger_and_it_keeps_what_matters() -> None:
    trt = make("11.4.0.106")
    assert trt.logger is trt.logger
    for severity in ("VERBOSE", "INFO", "WARNING", "ERROR", "INTERNAL_ERROR"):
        trt.logger.log(SimpleNamespace(name=severity), severity.lower())
    assert trt.said.warnings() == ("warning",)
    assert trt.said.errors() == ("error", "internal_error")
    with trt.listen() as log:
        assert not log.lines


@pytest.mark.parametrize(
    ("machine", "family"), [("AMD64", "x86_64"), ("arm64", "aarch64"), ("riscv64", "riscv64")]
)
def test_a_processor_has_one_name(monkeypatch: pytest.MonkeyPatch, machine: str, family: str) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert api.architecture() == family
