from __future__ import annotations

import numpy as np
import pytest

from bn_deploy.backends.base import Runner, infer
from bn_deploy.errors import InputError
from tests.fakes import FakeClock, FakeRunner


def test_the_fake_runner_is_a_runner_and_spends_time_only_on_its_clock() -> None:
    clock = FakeClock()
    runner: Runner = FakeRunner(clock, {"load": 1.0, "enqueue": 2.0, "synchronize": 4.0, "fetch": 8.0})
    with runner:
        out = infer(runner, {"image": np.arange(8, dtype=np.float32).reshape(2, 4)})
    assert out["logits"].tolist() == [[6.0], [22.0]]
    assert clock() == 15.0


def test_the_fake_runner_owns_what_it_loads_and_gives_away_what_it_fetches() -> None:
    runner = FakeRunner()
    image = np.ones((1, 4), np.float32)
    runner.load({"image": image})
    image[:] = 0
    runner.enqueue()
    first = runner.fetch()["logits"]
    first[:] = 0
    assert runner.fetch()["logits"].tolist() == [[4.0]]


@pytest.mark.parametrize("shape", [(1, 5), (3, 4)], ids=["width", "too many rows"])
def test_the_fake_runner_refuses(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError):
        FakeRunner(largest_batch=2).load({"image": np.ones(shape, np.float32)})
