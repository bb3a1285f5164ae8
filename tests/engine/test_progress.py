from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bn_deploy.engine import driver
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.progress import Progress
from bn_deploy.spec import T
from tests.engine.fake_trt import VERSIONS, World, make
from tests.engine.models import cnn, save

PHASES = [("Building", None, 4), ("Timing", "Building", 10), ("Loops", "Timing", 3), ("Rest", "gone", 2)]


class Bar:
    """A Track that counts, and tells how far it was at each step; it may be interrupted at one."""

    def __init__(self, interrupted_at: int = -1) -> None:
        self.reached = 0
        self.total = 0
        self.description = ""
        self._interrupted_at = interrupted_at

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        self.total, self.description = total, description
        for item in items:
            yield item
            self.reached += 1
            if self.reached == self._interrupted_at:
                raise KeyboardInterrupt


def test_phases_within_phases_advance_one_bar() -> None:
    bar = Bar()
    progress = Progress(bar, "building")
    shown = [bar.reached]
    progress.start("outer", None, 2)
    progress.start("inner", "outer", 2)
    for name in ("inner", "inner", "outer", "outer", "nobody"):
        assert progress.step(name)
        shown.append(bar.reached)
    progress.finish("inner")
    progress.complete()
    assert shown == [0, 24, 49, 49, 99, 99]  # of 100: the last comes when all is done
    assert bar.reached == bar.total == 100


def test_it_never_goes_back() -> None:
    bar = Bar()
    progress = Progress(bar, "building")
    progress.start("outer", None, 2)
    progress.step("outer")
    progress.start("outer", None, 2)  # the same phase again, from its beginning
    progress.step("outer")
    assert bar.reached == 49


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_shows_how_far_it_is_on_every_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("NVIDIA Thing", (8, 9), (12, 8)))
    world, bar = World(phases=PHASES), Bar()
    path = save(cnn(), tmp_path / "model.onnx")
    options = BuildOptions(timing_cache=False)
    build(path, tmp_path / "model.plan", options=options, trt=make(version, world), track=bar)
    assert bar.description == "building the engine"
    assert bar.reached == bar.total == (1 if version == VERSIONS[0] else 100)
    assert all(world.told)


def test_an_interruption_cancels_the_build_and_reaches_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(driver, "find_gpu", lambda: Gpu("NVIDIA Thing", (8, 9), (12, 8)))
    world = World(phases=PHASES)
    path = save(cnn(), tmp_path / "model.onnx")
    options = BuildOptions(timing_cache=False)
    trt = make(VERSIONS[-1], world)
    with pytest.raises(KeyboardInterrupt):
        build(path, tmp_path / "model.plan", options=options, trt=trt, track=Bar(interrupted_at=30))
    assert world.told[:2] == [True, False]  # TensorRT was asked to stop, not interrupted by an exception
    assert not (tmp_path / "model.plan").exists()
