"""What OpenVINO is asked for and what is read back; the conformance suite runs a real one."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bn_deploy.backends import backend
from bn_deploy.backends.base import Facts, facts, infer, loaded_census
from bn_deploy.errors import InputError, ModelError, NotAvailable
from bn_deploy.spec import Precision
from tests.engine.models import cnn, save


class Port:
    """An input or output (?, 2)."""

    def __init__(self, name: str, kind: str = "f32") -> None:
        self._name, self._kind = name, kind

    def get_any_name(self) -> str:
        return self._name

    def get_element_type(self) -> Any:
        return SimpleNamespace(get_type_name=lambda: self._kind)

    def get_partial_shape(self) -> list[Any]:
        return [SimpleNamespace(is_dynamic=True), SimpleNamespace(is_dynamic=False, get_length=lambda: 2)]


class Network:
    """y = -x, unless it `fails`."""

    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.inputs = [Port("x", fake.kind)]
        self.outputs = [Port("y")] * fake.has_outputs

    def get_property(self, name: str) -> Any:
        return {
            "INFERENCE_PRECISION_HINT": SimpleNamespace(get_type_name=lambda: self._fake.computes),
            "INFERENCE_NUM_THREADS": self._fake.threads,
            "EXECUTION_DEVICES": [self._fake.device],
        }[name]

    def get_runtime_model(self) -> Any:
        layers = ["Input", "FullyConnected", "FullyConnected", "Output"]
        ops = [
            SimpleNamespace(get_rt_info=lambda n=n: {"layerType": SimpleNamespace(value=n)}) for n in layers
        ]
        return SimpleNamespace(get_ops=lambda: ops)

    def create_infer_request(self) -> Any:
        held: dict[str, Any] = {}

        def compute() -> None:
            if self._fake.fails:
                raise RuntimeError("Exception from src/a.cpp:1:\nshapes differ\n\n")
            held["y"][...] = -held["x"]

        return SimpleNamespace(set_tensor=held.__setitem__, infer=compute)


class Fake:
    """An openvino, and what it was asked for."""

    computes = "f32"
    threads = 3
    device = "CPU"
    kind = "f32"
    fails = False
    reads = True
    has_outputs = True

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def compile_model(self, model: object, device: str, options: dict[str, Any]) -> Network:
        assert (model, device) == ("the model", "CPU")
        self.asked = options
        return Network(self)

    def load(self, path: str) -> str:
        if not self.reads:
            raise RuntimeError("Check 'parsed' failed at src/b.cpp:5:\nFrontEnd API failed:\nno model\n")
        return "what was read"

    @staticmethod
    def tensor(array: np.ndarray[Any, Any], *, shared_memory: bool) -> np.ndarray[Any, Any]:
        assert shared_memory
        assert array.flags.writeable
        assert array.flags.c_contiguous
        return array


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake()
    reader = SimpleNamespace(load=made.load, convert=lambda read: "the model")

    def load_by_framework(name: str) -> Any:
        assert name == "onnx"
        return reader

    frontend = SimpleNamespace(FrontEndManager=lambda: SimpleNamespace(load_by_framework=load_by_framework))
    module = SimpleNamespace(Core=lambda: made, Tensor=made.tensor, frontend=frontend)
    monkeypatch.setitem(sys.modules, "openvino", module)
    monkeypatch.setitem(sys.modules, "openvino.frontend", frontend)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return save(cnn(), tmp_path / "m.onnx")


X = np.array([[1, 2], [3, 4]], np.float32)


def test_it_is_told_to_compute_in_fp32_and_how(fake: Fake, path: Path) -> None:
    with backend("openvino").open(path, threads=3) as runner:
        assert fake.asked == {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 3,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        assert runner.precision is Precision.FP32
        assert facts(runner) == Facts(threads=3)
        assert loaded_census(runner) == {"Input": 1, "FullyConnected": 2, "Output": 1}
        np.testing.assert_array_equal(infer(runner, {"x": X})["y"], -X)
    with pytest.raises(InputError):
        loaded_census(runner)


def test_the_threads_are_those_that_it_says_it_has(fake: Fake, path: Path) -> None:
    fake.threads = 2
    assert facts(backend("openvino").open(path, threads=64)).threads == 2


@pytest.mark.parametrize(
    ("asked", "hint"), [(Precision.BF16, "bf16"), (Precision.FP16, "f16"), (Precision.FP32, "f32")]
)
def test_it_computes_in_the_precision_that_is_asked_for(
    fake: Fake, path: Path, asked: Precision, hint: str
) -> None:
    fake.computes = hint
    assert backend("openvino").open(path, threads=1, precision=asked).precision is asked
    assert fake.asked["INFERENCE_PRECISION_HINT"] == hint


@pytest.mark.parametrize(
    ("asked", "computes"),
    [(None, "bf16"), (Precision.FP32, "bf16"), (Precision.BF16, "f32"), (Precision.FP32, "f16")],
)
def test_another_precision_than_asked_is_refused(
    fake: Fake, path: Path, asked: Precision | None, computes: str
) -> None:
    fake.computes = computes
    with pytest.raises(NotAvailable) as refusal:
        backend("openvino").open(path, threads=1, precision=asked)
    wanted = (asked or Precision.FP32).value
    assert str(refusal.value) == (
        f"asked for {wanted}, OpenVINO computes in {computes} on this CPU; ask for another precision"
    )


def test_another_device_than_the_cpu_is_refused(fake: Fake, path: Path) -> None:
    fake.device = "GPU.0"
    with pytest.raises(NotAvailable, match=r"^asked for the CPU, OpenVINO took GPU\.0$"):
        backend("openvino").open(path, threads=1)


def test_narrow_weights_are_refused(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="has fp16 weights, and OpenVINO would compute in fp32"):
        backend("openvino").open(save(cnn(half=True), tmp_path / "half.onnx"), threads=1)


def test_a_file_that_it_cannot_read_is_refused_in_one_line(fake: Fake, path: Path) -> None:
    fake.reads = False
    with pytest.raises(ModelError) as refusal:
        backend("openvino").open(path, threads=1)
    assert str(refusal.value) == f"OpenVINO cannot load {path}: no model"


def test_a_network_without_outputs_is_refused(fake: Fake, path: Path) -> None:
    """An empty file is one, to OpenVINO."""
    fake.has_outputs = False
    with pytest.raises(ModelError, match="it has no outputs"):
        backend("openvino").open(path, threads=1)


def test_types_that_nobody_feeds_are_refused(fake: Fake, path: Path) -> None:
    fake.kind = "string"
    with pytest.raises(ModelError, match=r"^x is of type string, which no runner here feeds$"):
        backend("openvino").open(path, threads=1)


def test_a_network_that_fails_does_so_in_one_line(fake: Fake, path: Path) -> None:
    fake.fails = True
    with backend("openvino").open(path, threads=1) as runner:
        runner.load({"x": X})
        with pytest.raises(ModelError, match=r"^OpenVINO cannot run the network: shapes differ$"):
            runner.enqueue()


def test_without_openvino_the_backend_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert backend("openvino").why_not() == "openvino is not installed; pip install 'bn-deploy[openvino]'"


def test_an_openvino_that_does_not_load_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('lib.so: no such file\\nsecond line')")
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    wanted = "openvino is installed but does not load: lib.so: no such file"
    assert backend("openvino").why_not() == wanted
