"""What stays bound to a session, and when it may be filled again without another check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bn_deploy.backends.base import Array
from bn_deploy.backends.onnxrt_memory import HostMemory

A, B = np.full((2, 3), 1.0, np.float32), np.full((2, 1), 2.0, np.float32)


class Binding:
    """Keeps what is bound, by name."""

    def __init__(self) -> None:
        self.bound: dict[str, Array] = {}

    def bind_cpu_input(self, name: str, array: Array) -> None:
        self.bound[name] = array

    def bind_output(self, *_: Any) -> None:
        raise AssertionError("no output is bound here")


def test_like_inputs_go_into_the_arrays_that_are_bound() -> None:
    binding = Binding()
    memory = HostMemory(binding)
    assert not memory.reload({"a": A, "b": B}), "nothing is bound yet"
    memory.load({"a": A, "b": B})
    before = dict(binding.bound)
    strided = np.full((2, 6), 5.0, np.float32)[:, ::2]
    assert memory.reload({"b": B + 1, "a": strided})
    assert all(binding.bound[name] is before[name] for name in "ab")
    assert before["a"].tolist() == strided.tolist()
    assert before["b"].tolist() == [[3.0], [3.0]]
    assert A[0, 0] == 1.0, "the caller's arrays are his"


@pytest.mark.parametrize(
    "feeds",
    [
        {"a": A[:1], "b": B},
        {"a": A.T, "b": B},
        {"a": A.astype(np.float64), "b": B},
        {"a": A},
        {"a": A, "c": B},
        {"a": A, "b": B, "c": B},
    ],
    ids=["fewer rows", "another shape", "another type", "one is missing", "another name", "one too many"],
)
def test_what_differs_is_left_to_the_full_check(feeds: dict[str, Array]) -> None:
    binding = Binding()
    memory = HostMemory(binding)
    memory.load({"a": A, "b": B})
    assert not memory.reload({name: array + 7 for name, array in feeds.items()})
    assert binding.bound["a"].tolist() == A.tolist(), "not even partly"


def test_what_is_read_where_it_lies_is_bound_anew_each_time() -> None:
    memory = HostMemory(Binding())
    large = {"a": np.zeros((1 << 15, 1), np.float32)}
    memory.load(large)
    assert not memory.reload(large)
    memory.load({"a": large["a"], "b": B})
    assert not memory.reload({"a": large["a"], "b": B})
