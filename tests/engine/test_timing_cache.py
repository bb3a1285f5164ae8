from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from bn_deploy.engine import driver, timing_cache
from bn_deploy.engine.build import BuildOptions, BuildResult, build
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.timing_cache import TimingCache, cache_path
from bn_deploy.errors import InputError
from tests.engine.fake_trt import VERSIONS, World, make
from tests.engine.models import cnn, save

NEW = VERSIONS[-1]
GPU = Gpu("NVIDIA Thing 2/3 (PCIe)", (8, 9), (12, 8))


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file for NEW on GPU."""
    monkeypatch.setattr(driver, "find_gpu", lambda: GPU)
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    path = cache_path(make(NEW), GPU)
    assert isinstance(path, Path)
    return path


def built(folder: Path, world: World, timing_cache: bool | None = None, version: str = NEW) -> BuildResult:
    path = save(cnn(), folder / "model.onnx")
    options = BuildOptions(timing_cache=timing_cache)
    return build(path, folder / "model.plan", options=options, trt=make(version, world))


def kept(path: Path) -> list[str]:
    return path.read_text().split("\n")


def test_its_file_is_of_one_version_and_one_gpu(cache: Path, tmp_path: Path) -> None:
    assert cache == tmp_path / "cache/timing/tensorrt-11.4.0.106-sm89-NVIDIA-Thing-2-3-PCIe.cache"


@pytest.mark.parametrize("version", VERSIONS)
def test_what_one_build_times_the_next_one_knows(tmp_path: Path, version: str) -> None:
    first = built(tmp_path, World(timed=("conv",)), version=version)
    assert first.sidecar.settings["timing_cache"] is True
    assert first.warnings == ()
    built(tmp_path, World(timed=("gemm",)), version=version)
    path = cache_path(make(version), GPU)
    assert isinstance(path, Path)
    assert kept(path) == ["this device", "conv", "gemm"]


def test_it_can_be_left_alone(cache: Path, tmp_path: Path) -> None:
    result = built(tmp_path, World(timed=("conv",)), timing_cache=False)
    assert result.sidecar.settings["timing_cache"] is False
    assert not cache.exists()


def test_builds_at_the_same_time_lose_nothing(cache: Path) -> None:
    mine, other = (TimingCache(cache) for _ in range(2))
    configs = []
    for one, entry in ((mine, "mine"), (other, "other")):
        config = make(NEW, World()).module.IBuilderConfig()
        one.attach(config)
        config.get_timing_cache()._entries.add(entry)
        configs.append(config)
    other.save()
    mine.save()
    assert kept(cache) == ["this device", "mine", "other"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("broken", "holds no timings; it is begun anew"),
        ("", "holds no timings; it is begun anew"),
        ("another device\nx", "was made for another device; it is begun anew"),
    ],
)
def test_a_file_that_does_not_fit_is_begun_anew_and_told(
    cache: Path, tmp_path: Path, content: str, problem: str
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(content)
    result = built(tmp_path, World(timed=("conv",)))
    assert result.warnings == (f"{cache} {problem}",)
    assert kept(cache) == ["this device", "conv"]


def test_a_cache_that_cannot_be_written_does_not_stop_the_build(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder is wanted")
    result = built(tmp_path, World(timed=("conv",)))
    assert any("could not be kept" in warning or "cannot read" in warning for warning in result.warnings)
    assert result.plan_path.is_file()


def test_without_platformdirs_it_is_told_and_cannot_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    result = built(tmp_path, World())
    assert result.warnings[0].startswith("no timing cache is kept: the package platformdirs")
    assert result.sidecar.settings["timing_cache"] is False
    with pytest.raises(InputError, match="no timing cache can be kept"):
        built(tmp_path, World(), timing_cache=True)


def test_the_lock_keeps_other_processes_out(tmp_path: Path) -> None:
    lock, log = tmp_path / "x.lock", tmp_path / "log"
    program = f"""
from pathlib import Path
from bn_deploy.engine.timing_cache import _locked
print("ready", flush=True)
with _locked(Path({str(lock)!r})):
    Path({str(log)!r}).open("a").write("other")
"""
    with timing_cache._locked(lock):
        other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.2)
        log.write_text("mine ")
    assert other.wait(10) == 0
    other.stdout.close()
    assert log.read_text() == "mine other"
