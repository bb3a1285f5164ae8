from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bn_deploy.bench.caches import Rotation, cold, last_level_bytes

ROWS = {"image": np.arange(12, dtype=np.float32).reshape(3, 4)}


def caches(root: Path, sizes: dict[str, str]) -> Path:
    for name, size in sizes.items():
        folder = root / "sys/devices/system/cpu/cpu0/cache" / name
        folder.mkdir(parents=True)
        (folder / "size").write_text(size)
    return root


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"index0": "32K\n", "index2": "512K\n", "index3": "32768K\n"}, 32 << 20),
        ({"index0": "64M"}, 64 << 20),
        ({"index0": "1000"}, 1000),
        ({"index0": "much"}, None),
        ({}, None),
    ],
)
def test_the_last_level_is_the_largest(sizes: dict[str, str], expected: int | None, tmp_path: Path) -> None:
    assert last_level_bytes(caches(tmp_path, sizes)) == expected


def test_the_set_is_larger_than_the_cache_and_every_call_gets_other_inputs() -> None:
    rotation = Rotation(ROWS, batch=2, cache_bytes=1000)
    assert rotation.nbytes >= 2000
    seen = [rotation.next()["image"] for _ in range(rotation.batches)]
    assert all(array.shape == (2, 4) for array in seen)
    assert len({array.ctypes.data for array in seen}) == rotation.batches
    assert rotation.next()["image"].ctypes.data == seen[0].ctypes.data, "then from the beginning"
    assert seen[0].tolist() == ROWS["image"][:2].tolist()
    assert seen[1].tolist() == ROWS["image"][[2, 0]].tolist(), "rows are repeated"


def test_a_large_batch_still_changes() -> None:
    rotation = Rotation(ROWS, batch=100, cache_bytes=1)
    assert rotation.next()["image"].ctypes.data != rotation.next()["image"].ctypes.data


@pytest.mark.parametrize("placed", [True, False])
def test_inputs_change_and_are_placed_before_the_caches_are_emptied(placed: bool) -> None:
    log: list[str] = []

    class Logged(Rotation):
        def evict(self) -> None:
            log.append("evict")

    rotation = Logged(ROWS, batch=1, cache_bytes=100)
    feeds = {"image": np.zeros((1, 4), np.float32)}
    prepare = cold(rotation, feeds, (lambda given: log.append(str(given["image"][0, 0]))) if placed else None)
    prepare()
    prepare()
    assert log == (["0.0", "evict", "4.0", "evict"] if placed else ["evict", "evict"])
    assert feeds["image"][0, 0] == 4.0
