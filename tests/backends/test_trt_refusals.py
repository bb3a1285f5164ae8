"""Which plans are refused, and which code is let in, each with its reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.backends import backend, trt
from bn_deploy.backends.base import infer
from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.inspecting.plan import inspect
from bn_deploy.spec import Precision
from tests.backends.fake_engine import Engine, HostMemory, make
from tests.backends.trt_place import KNOWN, Place, image

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


def test_who_looks_into_a_plan_does_not_run_its_code(place: Place) -> None:
    version = "11.4.0.106"
    answers = place.use(Engine(), version)
    place.write(replace(KNOWN, tensorrt_version=version, settings=CODE))
    (note,) = inspect(place.plan, 6, "").notes
    assert note.endswith("it carries code for the host, which is not loaded to look into it")
    assert answers.host_code_allowed is None
    place.write(replace(KNOWN, tensorrt_version=version))
    assert not any("carries code" in note for note in inspect(place.plan, 6, "").notes)
    assert answers.host_code_allowed is False


def test_a_lean_runtime_can_be_brought(place: Place, tmp_path: Path) -> None:
    answers = place.use(Engine(), "11.4.0.106")
    flags = ["EXCLUDE_LEAN_RUNTIME", "VERSION_COMPATIBLE"]
    place.write(replace(KNOWN, tensorrt_version="11.3.0.1", settings={"typing": "strong", "flags": flags}))
    for name in ("lean.so", "broken.so"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"needs to run it; give the library of .* 11\.3\.0\.1 with --lean"):
        place.open()
    with pytest.raises(InputError, match=r"there is no lean runtime .*none\.so"):
        place.open(lean_runtime=tmp_path / "none.so")
    with place.open(lean_runtime=tmp_path / "lean.so"):
        assert answers.lean_runtime == str(tmp_path / "lean.so")
        assert answers.host_code_allowed is False
    place.memory = HostMemory()
    with pytest.raises(NotAvailable, match=r"broken\.so is no lean runtime that loads here"):
        place.open(lean_runtime=tmp_path / "broken.so")


def test_an_old_tensorrt_cannot_load_a_lean_runtime(place: Place, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"TensorRT 8\.5\.3\.1 cannot load a lean runtime"):
        place.open(lean_runtime=tmp_path / "lean.so")


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
    place.write(replace(KNOWN, precision=built_as, settings={"typing": typing, "flags": []}))
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


@pytest.mark.parametrize(("flags", "runs"), [([], False), (["VERSION_COMPATIBLE"], True)])
def test_the_lean_runtime_stands_in_for_plans_that_are_version_compatible(
    place: Place, flags: list[str], runs: bool
) -> None:
    version = "11.4.0.106"
    place.put(api, "find", lambda _: TensorRT("tensorrt_lean", make(Engine(), version).module))
    place.write(replace(KNOWN, tensorrt_version=version, settings={"typing": "strong", "flags": flags}))
    if runs:
        with place.open(trust=True) as runner:
            assert runner.provider == f"TensorRT lean runtime {version}"
            assert infer(runner, image(2))["logits"].shape == (2, 2)
    else:
        with pytest.raises(
            NotAvailable,
            match=r"is not version-compatible, and TensorRT lean .* build it with --version-compatible",
        ):
            place.open()


def test_a_foreign_plan_is_refused_before_a_runtime_is_touched(place: Place) -> None:
    no_runtime(place)
    place.write(replace(KNOWN, compute_capabilities=("9.0",)))
    with pytest.raises(NotAvailable, match=r"model\.plan was built for the compute capabilities 9\.0"):
        place.open()
    sidecar.sidecar_path(place.plan).unlink()
    with pytest.raises(InputError, match="has no side-car"):
        place.open()
