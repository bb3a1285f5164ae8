from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.artifact import sha256_bytes
from bn_deploy.backends import backend, trt
from bn_deploy.backends.base import facts, infer
from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from tests.backends.fake_engine import VERSION, Engine, HostMemory, make
from tests.engine.fake_trt import RTX

PLAN = b"a plan"
GPU = Gpu("NVIDIA Thing", (8, 9), (12, 8))
KNOWN = Sidecar(
    plan_sha256=sha256_bytes(PLAN),
    plan_bytes=len(PLAN),
    onnx_sha256="0" * 64,
    origin={"bn_deploy.dataset": "synthetic"},
    package_version="0.1.0",
    tensorrt="tensorrt",
    tensorrt_version=VERSION,
    systems=(api.operating_system(),),
    architecture=api.architecture(),
    compute_capabilities=("8.9",),
    gpu=GPU.name,
    settings={"typing": "weak", "flags": []},
    profiles=(BatchRange(2, 4, 8),),
    precision=Precision.FP32,
    layers={Precision.FP32: 2},
    engine_layers=None,
    inputs=(TensorSpec("image", (None, 3), "float32"),),
    outputs=(TensorSpec("logits", (None, 2), "float32"),),
)


class Place:
    """A machine with a GPU and a plan on it, all of it fake; each part can be changed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = folder / "model.plan"
        self.plan.write_bytes(PLAN)
        self.memory = HostMemory()
        self.monkeypatch = monkeypatch
        self.write(KNOWN)
        self.put(api, "why_not", lambda: None)
        self.put(driver, "find_gpu", lambda: GPU)
        self.put(trt, "open_memory", lambda: self.memory)
        self.use(Engine())

    def put(self, owner: Any, name: str, value: Any) -> None:
        self.monkeypatch.setattr(owner, name, value)

    def use(self, answers: Engine, version: str = VERSION) -> Engine:
        def find(name: str) -> TensorRT:
            assert name == "tensorrt"
            return make(answers, version)

        self.put(api, "find", find)
        return answers

    def write(self, known: Sidecar) -> None:
        sidecar.write(self.plan, known)

    def open(self, **options: Any) -> trt.TrtRunner:
        return trt.open_runner(self.plan, threads=1, **options)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


def image(rows: int, start: int = 0) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {"image": np.arange(start, start + 3 * rows, dtype=np.float32).reshape(rows, 3)}


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
        assert runner.cuda_graph == "on"
        assert facts(runner).cuda_graph
        assert [graph.launches for graph in place.memory.graphs] == [6, 2]
        assert len(answers.runs_on) == 2 + 8  # one before each recording, and what the graphs hold
        assert answers.contexts == 2  # a graph holds on to its own
    assert all(graph.closed for graph in place.memory.graphs)


@pytest.mark.parametrize(
    ("version", "answers", "memory", "reason"),
    [
        (VERSION, Engine(), HostMemory(refuses_graphs="no such luck"), "off: no such luck"),
        ("11.4.0.106", Engine(), HostMemory(refuses_graphs="no"), "off: no"),
        (RTX, Engine(capturable=False), HostMemory(), "off: TensorRT cannot be recorded with these shapes"),
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
        assert runner.cuda_graph == reason
        assert facts(runner).cuda_graph is False


def test_where_a_profile_has_one_context_one_graph_must_do(place: Place) -> None:
    place.use(Engine(most_contexts=1))
    with place.open(cuda_graph=True) as runner:
        infer(runner, image(2))
        assert runner.cuda_graph == "on"
        infer(runner, image(3))
        assert runner.cuda_graph == "off: TensorRT cannot prepare it to run: it gave no reason"
        np.testing.assert_array_equal(infer(runner, image(2))["logits"][:, 0], image(2)["image"].sum(axis=1))


CODE = {"typing": "strong", "flags": ["VERSION_COMPATIBLE"]}


def test_code_in_a_plan_stays_off_unless_it_is_trusted(place: Place) -> None:
    version = "11.4.0.106"
    answers = place.use(Engine(), version)
    place.write(replace(KNOWN, tensorrt_version=version))
    with place.open(trust=True):
        assert answers.host_code_allowed is False  # this one carries none
    place.memory = HostMemory()
    place.write(replace(KNOWN, tensorrt_version=version, settings=CODE))
    with pytest.raises(InputError, match=r"model\.plan carries code that would run .* say --trust"):
        place.open()
    with place.open(trust=True):
        assert answers.host_code_allowed is True


def test_a_lean_runtime_can_be_brought(place: Place, tmp_path: Path) -> None:
    answers = place.use(Engine(), "11.4.0.106")
    flags = ["EXCLUDE_LEAN_RUNTIME", "VERSION_COMPATIBLE"]
    place.write(replace(KNOWN, tensorrt_version="11.3.0.1", settings={"typing": "strong", "flags": flags}))
    with place.open(lean_runtime=tmp_path / "lean.so"):
        assert answers.lean_runtime == str(tmp_path / "lean.so")
        assert answers.host_code_allowed is False
    place.memory = HostMemory()
    with pytest.raises(NotAvailable, match=r"broken\.so is no lean runtime that loads here"):
        place.open(lean_runtime=tmp_path / "broken.so")


def test_an_old_tensorrt_cannot_load_a_lean_runtime(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TensorRT 8\.5\.3\.1 cannot load a lean runtime"):
        place.open(lean_runtime=tmp_path / "lean.so")


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


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        (image(9), r"a batch of 9 is outside 2:4:8, what .*model\.plan was built for; build it with another"),
        (image(1), "a batch of 1 is outside 2:4:8"),
        ({"image": np.zeros((2, 3))}, r"input image float32 \(N x 3\) was given float64"),
        ({"image": np.zeros((2, 4), np.float32)}, "was given the shape 2 x 4"),
        ({"picture": np.zeros((2, 3), np.float32)}, "the network takes image; it was given picture"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(place: Place, feeds: Any, reason: str) -> None:
    with place.open() as runner, pytest.raises(InputError, match=reason):
        runner.load(feeds)


def test_nothing_runs_before_it_is_loaded(place: Place) -> None:
    with place.open() as runner:
        with pytest.raises(InputError, match=r"^the network cannot run before its inputs are loaded$"):
            runner.enqueue()
        for _ in range(2):
            with pytest.raises(InputError, match=r"^the network has no outputs before it has run$"):
                runner.fetch()
            runner.load(image(2))


def test_a_run_that_tensorrt_refuses_is_an_error(place: Place) -> None:
    place.use(Engine(runs=False))
    with place.open() as runner:
        runner.load(image(2))
        with pytest.raises(ModelError, match=r"model\.plan: TensorRT does not run it: it gave no reason"):
            runner.enqueue()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (Engine(takes_shape=False), r"refuses the shape \(2, 3\) of input image"),
        (Engine(unknown=["image"]), "cannot tell the shape of image"),
        (Engine(takes_address=False), "refuses the memory of tensor image"),
        (Engine(output_size=-1), "tensor logits has no size before it is computed"),
    ],
)
def test_shapes_that_tensorrt_refuses_leave_nothing_to_run(
    place: Place, answers: Engine, reason: str
) -> None:
    place.use(answers)
    with place.open() as runner:
        with pytest.raises(ModelError, match=reason):
            runner.load(image(2))
        with pytest.raises(InputError, match="before its inputs are loaded"):
            runner.enqueue()


@pytest.mark.parametrize(
    ("answers", "error", "reason"),
    [
        (Engine(loads=False), ModelError, "TensorRT cannot load it: Magic tag does not match"),
        (Engine(prepares=False), ModelError, "TensorRT cannot prepare it to run"),
        (Engine(location="HOST"), ModelError, "tensor image is not computed on the GPU"),
        (Engine(layer_type="Half"), ModelError, "it computes in fp16, and was built as fp32"),
        (
            Engine(runtime_error="CUDA error 35"),
            NotAvailable,
            "cannot start on NVIDIA Thing .*: CUDA error 35",
        ),
    ],
)
def test_an_engine_that_cannot_be_used_is_refused_and_memory_given_back(
    place: Place, answers: Engine, error: type[Exception], reason: str
) -> None:
    place.use(answers)
    with pytest.raises(error, match=reason):
        place.open()
    assert place.memory.closed


@pytest.mark.parametrize(
    ("built_as", "typing", "layer_type", "reason"),
    [
        (Precision.FP16, "weak", "Half", None),
        (Precision.FP16, "weak", "Float", "it computes in fp32, and was built as fp16"),
        (Precision.FP16, "weak", "", "it does not tell its precision, and was built as fp16"),
        (Precision.FP16, "strong", "", None),
        (Precision.FP32, "weak", "", None),
        (Precision.INT8, "strong", "Half", "it computes in fp16, and was built as int8"),
        (Precision.INT8_FP16, "strong", "Int8 Half", None),
    ],
)
def test_a_silent_fallback_in_precision_is_an_error(
    place: Place, built_as: Precision, typing: str, layer_type: str, reason: str | None
) -> None:
    place.use(Engine(layer_type=layer_type))
    place.write(replace(KNOWN, precision=built_as, settings={"typing": typing}))
    if reason is None:
        with place.open() as runner:
            assert runner.precision is built_as
    else:
        with pytest.raises(ModelError, match=reason):
            place.open()


def no_runtime(place: Place) -> None:
    def find(name: str) -> TensorRT:
        found = make(Engine())
        found.module.Runtime = None
        return found

    place.put(api, "find", find)


def test_without_a_package_the_reason_is_told(place: Place) -> None:
    place.put(api, "why_not", lambda: "tensorrt is not installed; pip install 'bn-deploy[gpu]'")
    with pytest.raises(NotAvailable, match=r"bn-deploy\[gpu\]"):
        place.open()
    with pytest.raises(NotAvailable, match=r"^tensorrt is not installed"):
        backend("trt").open(place.plan, threads=1)


def test_without_a_driver_no_runtime_is_touched(place: Place) -> None:
    no_runtime(place)
    place.put(driver, "find_gpu", lambda: "no NVIDIA driver is installed")
    with pytest.raises(NotAvailable, match="TensorRT runs only on a GPU: no NVIDIA driver is installed"):
        place.open()
    assert trt.why_not() == "TensorRT runs only on a GPU: no NVIDIA driver is installed"


def test_a_foreign_plan_is_refused_before_a_runtime_is_touched(place: Place) -> None:
    no_runtime(place)
    place.write(replace(KNOWN, compute_capabilities=("9.0",)))
    with pytest.raises(NotAvailable, match=r"model\.plan was built for the compute capabilities 9\.0"):
        place.open()
    sidecar.sidecar_path(place.plan).unlink()
    with pytest.raises(InputError, match="has no side-car"):
        place.open()
