"""Each wire trips on its own fault and stays silent on rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bn_deploy.backends.base import Array
from bn_deploy.errors import InputError
from bn_deploy.verify.tripwires import (
    PROBES,
    WIRES,
    Asked,
    Trip,
    another_accuracy,
    ask,
    probes,
    runs_elsewhere,
    trips,
)

IMAGES = np.random.default_rng(1).normal(size=(PROBES, 6))
WEIGHT = np.random.default_rng(2).normal(size=(6, 4))
ALLOWED = 1e-6


def sound(x: Array) -> Array:
    return np.asarray(x @ WEIGHT)


def rounded(x: Array) -> Array:
    """Other kernels for other batch sizes round otherwise."""
    return sound(x) + 1e-8 * len(x)


def batch_statistics(x: Array) -> Array:
    y = sound(x)
    return np.asarray((y - y.mean(axis=0)) / np.sqrt(y.var(axis=0) + 1e-5))


def right_at_one(x: Array) -> Array:
    return sound(x) if len(x) == 1 else np.asarray(np.tile(sound(x[:1]), (len(x), 1)))


def last_row_wrong(x: Array) -> Array:
    y = sound(x)
    y[PROBES - 1 :] += 1.0
    return y


def nan_alone(x: Array) -> Array:
    return sound(x) * (np.nan if len(x) == 1 else 1.0)


def constant(x: Array) -> Array:
    return np.asarray(np.ones((len(x), 4)))


CASES: dict[str, tuple[Callable[[Array], Array], set[str]]] = {
    "sound": (sound, set()),
    "rounded": (rounded, set()),
    "batch statistics": (batch_statistics, {"constant", "batch of one", "batch composition"}),
    "right at 1, wrong at n": (
        right_at_one,
        {"constant", "batch of one", "batch composition", "place in the batch"},
    ),
    "one place of the batch": (
        last_row_wrong,
        {"batch of one", "batch composition", "place in the batch"},
    ),
    "NaN in a batch of one": (nan_alone, {"not finite", "batch of one"}),
    "constant": (constant, {"constant"}),
}


@pytest.mark.parametrize("case", CASES)
def test_each_fault_trips_its_wires_and_no_others(case: str) -> None:
    run, wires = CASES[case]
    found = list(trips("onnx", ask(run, IMAGES, ALLOWED)))
    assert {trip.wire for trip in found} == wires
    assert all(trip.stage == "onnx" and trip.seen for trip in found)


def test_every_wire_is_tripped_by_some_case() -> None:
    assert set().union(*(wires for _, wires in CASES.values())) == set(WIRES)


def test_what_takes_no_batch_of_one_is_asked_the_rest() -> None:
    def from_two(x: Array) -> Array:
        if len(x) < 2:
            raise InputError("a batch of 1 is outside 2 to 64")
        return batch_statistics(x)

    probed = ask(from_two, IMAGES, ALLOWED)
    assert probed.alone is None
    assert {trip.wire for trip in trips("engine", probed)} == {"batch composition"}


def test_one_image_alone_is_no_reason_to_call_a_network_constant() -> None:
    assert list(trips("onnx", ask(sound, IMAGES[:1], ALLOWED))) == []


def test_probes_are_spread_over_all_images() -> None:
    chosen = probes(np.arange(100))
    assert len(chosen) == PROBES
    assert (chosen[0], chosen[-1]) == (0, 99)
    assert probes(np.arange(3)).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("asked", "wires"),
    [
        ({}, []),
        ({"onnx": Asked("CPUExecutionProvider", "fp32")}, []),
        ({"onnx": Asked("CUDAExecutionProvider", "fp32")}, ["another provider"]),
        ({"onnx": Asked(None, "fp16")}, ["another precision"]),
        ({"engine": Asked("x", "y")}, []),
    ],
)
def test_what_runs_elsewhere_than_asked_is_seen(asked: dict[str, Asked], wires: list[str]) -> None:
    found = list(runs_elsewhere("onnx", "CPUExecutionProvider", "fp32", asked))
    assert [trip.wire for trip in found] == wires
    if found:
        assert isinstance(found[0], Trip)
        assert found[0].seen.startswith("asked for ")


LABELS = np.arange(1000) % 10


@pytest.mark.parametrize(
    ("recorded", "right", "population", "said"),
    [
        (0.89, 890, 10_000, None),
        (0.89, 860, 10_000, None),  # 1,000 of 10,000 images tell the accuracy to 3 points
        (0.89, 887, 1_000, None),
        (0.89, 880, 1_000, "88.0 %"),  # they are the very same images
        (0.89, 840, 10_000, "84.0 % of 1,000 labels are right; the checkpoint records 89.0 %"),
        (0.89, 104, 10_000, "no more than chance"),
        (0.10, 100, 10_000, None),  # it never knew more than chance
        (0.10, 890, 10_000, "89.0 %"),
    ],
)
def test_another_accuracy_than_the_recorded_one_is_seen(
    recorded: float, right: int, population: int, said: str | None
) -> None:
    seen = another_accuracy(recorded, LABELS, right, population)
    assert (seen is None) == (said is None)
    assert said is None or (seen is not None and said in seen)
