"""How a plan is run: batches, profiles, buffers, CUDA graphs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bn_deploy.backends.base import facts, infer
from bn_deploy.errors import InputError
from bn_deploy.spec import BatchRange, Precision
from tests.backends.fake_engine import VERSION, Engine, HostMemory
from tests.backends.trt_place import KNOWN, Place, image
from tests.engine.fake_trt import RTX


def test_it_computes_for_every_batch_of_the_profile(place: Place) -> None:
    answers = place.use(Engine())
    with place.open() as runner:
        for rows in (2, 8, 3, 3):
            feeds = image(rows, start=rows)
            logits = infer(runner, feeds)["logits"]
            total = feeds["image"].sum(axis=1)
            np.testing.assert_array_equal(logits, np.stack([total, -total], axis=1))
    assert answers.shapes_set == [(2, 3), (8, 3), (3, 3)]  # the second batch of 3 needs no new shapes
    assert set(answers.runs_on) == {HostMemory.stream}
    assert place.memory.sizes == [2 * 12, 2 * 8, 8 * 12, 8 * 8, 3 * 12, 3 * 8]  # once per batch size
    assert answers.profiles_set == []  # a context begins with its only profile
    assert not place.memory.live
    assert place.memory.closed


def test_a_batch_size_that_comes_back_finds_its_memory(place: Place) -> None:
    answers = place.use(Engine(profiles=((1, 4, 64),)))
    with place.open() as runner:
        for rows in (2, 8, 2):
            infer(runner, image(rows))
        assert len(place.memory.sizes) == 4
        assert answers.shapes_set == [(2, 3), (8, 3), (2, 3)]
        for rows in range(10, 20):  # more than are kept: the memory does not grow without end
            np.testing.assert_array_equal(
                infer(runner, image(rows))["logits"][:, 0], image(rows)["image"].sum(axis=1)
            )
        assert len(place.memory.live) == 2 * 8


def test_the_profile_goes_by_the_batch(place: Place) -> None:
    answers = place.use(Engine(profiles=((1, 1, 1), (2, 16, 16), (2, 64, 64))))
    with place.open() as runner:
        assert runner.profiles == (BatchRange(1, 1, 1), BatchRange(2, 16, 16), BatchRange(2, 64, 64))
        for rows in (1, 8, 64, 12, 1):
            assert infer(runner, image(rows))["logits"].shape == (rows, 2)
        assert answers.profiles_set == [1, 2, 1, 0]
        with pytest.raises(InputError, match="a batch of 65 is outside 1:1:1 and 2:16:16 and 2:64:64"):
            runner.load(image(65))


def test_it_says_what_the_engine_says(place: Place) -> None:
    with place.open() as runner:
        assert runner.backend == "trt"
        assert runner.inputs == KNOWN.inputs
        assert runner.outputs == KNOWN.outputs
        assert runner.precision is Precision.FP32
        assert runner.provider == f"TensorRT {VERSION}"
        assert runner.device == "NVIDIA Thing (compute capability 8.9)"


def test_outputs_belong_to_the_caller(place: Place) -> None:
    with place.open() as runner:
        first = infer(runner, image(2))["logits"]
        before = first.copy()
        infer(runner, image(2, start=50))
        np.testing.assert_array_equal(first, before)


def test_what_was_loaded_can_run_again_and_the_input_is_free(place: Place) -> None:
    with place.open() as runner:
        feeds = image(2)
        runner.load(feeds)
        feeds["image"][:] = 99
        for _ in range(2):
            runner.enqueue()
            runner.synchronize()
            np.testing.assert_array_equal(runner.fetch()["logits"][:, 0], [3, 12])


def test_inputs_are_only_overwritten_when_the_gpu_is_done_with_them(place: Place) -> None:
    with place.open() as runner:
        runner.load(image(2))
        runner.enqueue()
        place.memory.did.clear()
        runner.load(image(2))
        assert place.memory.did == ["wait", "copy in"]


def test_each_verb_does_its_part_only(place: Place) -> None:
    with place.open() as runner:
        infer(runner, image(2))
        parts: dict[int, list[str]] = {}
        for verb in (lambda: runner.load(image(2)), runner.enqueue, runner.synchronize, runner.fetch):
            place.memory.did.clear()
            verb()
            parts[len(parts)] = list(place.memory.did)
    assert parts == {0: ["copy in"], 1: [], 2: ["wait"], 3: ["copy out", "wait"]}


def test_a_graph_is_recorded_once_per_batch_size(place: Place) -> None:
    answers = place.use(Engine())
    with place.open(cuda_graph=True) as runner:
        for rows in (2, 3, 2, 2):
            feeds = image(rows, start=rows)
            for _ in range(2):
                np.testing.assert_array_equal(
                    infer(runner, feeds)["logits"][:, 0], feeds["image"].sum(axis=1)
                )
        assert facts(runner).cuda_graph
        assert facts(runner).no_cuda_graph is None
        assert [graph.launches for graph in place.memory.graphs] == [6, 2]
        assert len(answers.runs_on) == 2 + 8  # one before each recording, and what the graphs hold
        assert answers.contexts == 2  # a graph holds on to its own
    assert all(graph.closed for graph in place.memory.graphs)


@pytest.mark.parametrize(
    ("version", "answers", "memory", "reason"),
    [
        (VERSION, Engine(), HostMemory(refuses_graphs="no such luck"), "no such luck"),
        ("11.4.0.106", Engine(), HostMemory(refuses_graphs="no"), "no"),
        (RTX, Engine(capturable=False), HostMemory(), "TensorRT cannot be recorded with a batch of 2"),
    ],
)
def test_without_a_graph_it_runs_all_the_same_and_says_why(
    place: Place, version: str, answers: Engine, memory: HostMemory, reason: str
) -> None:
    place.use(answers, version)
    place.memory = memory
    place.write(replace(KNOWN, tensorrt_version=version))
    with place.open(cuda_graph=True) as runner:
        for rows in (2, 3):
            np.testing.assert_array_equal(
                infer(runner, image(rows))["logits"][:, 0], image(rows)["image"].sum(axis=1)
            )
        assert facts(runner).cuda_graph is False
        assert facts(runner).no_cuda_graph == reason


def test_where_a_graph_cannot_be_had_for_one_batch_size_no_other_keeps_one(place: Place) -> None:
    """8.5 has one context for a profile, and a recording needs its own."""
    answers = place.use(Engine(most_contexts=1))
    with place.open(cuda_graph=True) as runner:
        infer(runner, image(2))
        assert facts(runner).cuda_graph
        infer(runner, image(3))
        assert facts(runner).cuda_graph is False
        assert facts(runner).no_cuda_graph == "TensorRT cannot prepare it to run: it gave no reason"
        launches = [graph.launches for graph in place.memory.graphs]
        for rows in (2, 3, 2):
            np.testing.assert_array_equal(
                infer(runner, image(rows))["logits"][:, 0], image(rows)["image"].sum(axis=1)
            )
        assert [graph.launches for graph in place.memory.graphs] == launches
        assert all(graph.closed for graph in place.memory.graphs)
        assert answers.shapes_set[-3:] == [(2, 3), (3, 3), (2, 3)]  # the one context, set to each anew


def test_a_static_engine_takes_its_one_batch(place: Place) -> None:
    place.use(Engine(batch=4))
    with place.open() as runner:
        assert runner.inputs[0].shape == (4, 3)
        assert infer(runner, image(4))["logits"].shape == (4, 2)
        with pytest.raises(InputError, match="was given the shape 2 x 3"):
            runner.load(image(2))


def test_layers_are_not_marked_for_a_profiler(place: Place) -> None:
    answers = place.use(Engine())
    with place.open():
        assert answers.context.nvtx_verbosity.name == "NONE"
