"""Which provider, threads and graph ONNX Runtime takes, as read back from it; its GPU providers as fakes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from bn_deploy.backends import backend
from bn_deploy.backends.base import Facts, facts, infer, loaded_census
from bn_deploy.backends.onnxrt import CPU, CUDA, TENSORRT, OrtRunner
from bn_deploy.engine import driver
from bn_deploy.errors import BnDeployError, InputError, NotAvailable
from bn_deploy.spec import Precision, Stage
from tests.backends.answers import close, images
from tests.engine.models import cnn, save
from tests.lenets import one_thread, onnx_bytes  # noqa: F401 - a fixture

ort = pytest.importorskip("onnxruntime", reason="ort: onnxruntime is not installed")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(onnx_bytes(Stage.FOLDED))
    return file


def _own_threads() -> int:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("threads are counted in /proc, which is not here")
    return len(list(tasks.iterdir()))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_ort_starts_as_many_threads_as_it_is_given(path: Path, threads: int) -> None:
    gc.collect()  # sessions that other tests left
    with backend("ort").open(path, threads=1):  # the first of a process starts threads that are no session's
        before = _own_threads()
        with backend("ort").open(path, threads=threads) as runner:
            assert _own_threads() - before == threads - 1  # the caller's is one of them
            assert facts(runner).threads == threads


@pytest.mark.parametrize(
    ("threads", "asked", "told"), [(2, True, True), (2, False, False), (2, None, True), (1, True, None)]
)
def test_ort_spins_as_asked(path: Path, threads: int, asked: bool | None, told: bool | None) -> None:
    with backend("ort").open(path, threads=threads, spinning=asked) as runner:
        assert facts(runner).spinning is told


def test_ort_shows_the_graph_that_it_made(path: Path) -> None:
    """Without optimising, the file's own nodes remain; asking leaves nothing beside the file."""
    written = [node.op_type for node in onnx.load(path).graph.node]
    with OrtRunner(path, threads=1, optimize=False) as plain:
        assert plain.loaded_census() == {op: written.count(op) for op in written}
    with OrtRunner(path, threads=1) as runner:
        census = loaded_census(runner)
        assert census is not None
        infer(runner, {"image": images(1)})  # and it still runs
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    with pytest.raises(InputError):
        runner.loaded_census()


def test_ort_merges_a_batch_norm_into_a_convolution_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "native.onnx"
    file.write_bytes(onnx_bytes(Stage.CONVERTED))
    assert "BatchNormalization" in {node.op_type for node in onnx.load(file).graph.node}
    with OrtRunner(file, threads=1) as runner:
        census = runner.loaded_census() or {}
    assert census.get("BatchNormalization", 0) < 4  # those after the two convolutions are gone


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_a_provider_that_is_not_here_is_no_reason_to_take_the_cpu(
    path: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if provider in ort.get_available_providers():
        pytest.skip(f"{provider} is here")
    with pytest.raises(BnDeployError) as refusal:
        OrtRunner(path, threads=1, provider=provider)
    assert "\n" not in str(refusal.value)
    assert capfd.readouterr().out == ""
    name = {CUDA: "ort-cuda", TENSORRT: "ort-trt"}[provider]
    wanted = f"this onnxruntime has no {provider}; pip install 'bn-deploy[gpu]' in place of onnxruntime"
    assert backend(name).why_not() == wanted


# A GPU whose memory is the host's, and a provider that computes on the CPU.


class Gpu:
    """An onnxruntime with GPU providers; a session says that it took `takes`, with `options`."""

    def __init__(self, takes: str, options: dict[str, str]) -> None:
        self.asked: list[Any] = []
        self.entries: dict[str, str] = {}
        gpu = self

        class Options(ort.SessionOptions):  # type: ignore[misc, name-defined]
            def add_session_config_entry(self, key: str, value: str) -> None:
                gpu.entries[key] = value

        class Session:
            def __init__(self, path: str, settings: Any, providers: Any, **more: Any) -> None:
                gpu.asked.append((providers, more))
                self._real = ort.InferenceSession(path, settings, providers=[CPU])

            def __getattr__(self, name: str) -> Any:
                return getattr(self._real, name)

            def get_providers(self) -> list[str]:
                return [takes, CPU]

            def get_provider_options(self) -> dict[str, dict[str, str]]:
                return {takes: options}

        def room(shape: Any, dtype: Any, device: str, number: int) -> Any:
            assert (device, number) == ("cuda", 0)
            return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype)

        self.module = SimpleNamespace(
            SessionOptions=Options,
            InferenceSession=Session,
            GraphOptimizationLevel=ort.GraphOptimizationLevel,
            OrtValue=SimpleNamespace(ortvalue_from_shape_and_type=room),
            get_available_providers=lambda: [TENSORRT, CUDA, CPU],
        )


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Gpu]:
    def install(takes: str, **options: str) -> Gpu:
        gpu = Gpu(takes, options)
        monkeypatch.setitem(sys.modules, "onnxruntime", gpu.module)
        monkeypatch.setattr(driver, "why_no_gpu", lambda: None)
        monkeypatch.setattr(driver, "gpu", lambda: "a GPU")
        return gpu

    return install


def test_cuda_gets_its_inputs_and_gives_its_outputs(path: Path, a_gpu: Any) -> None:
    gpu = a_gpu(CUDA, use_tf32="0", enable_cuda_graph="0")
    with backend("ort-cuda").open(path, threads=1) as runner:
        for count in (3, 1, 3, 7):
            batch = images(count, count)
            assert close(infer(runner, {"image": batch})["logits"], batch)
        assert (runner.backend, runner.provider, runner.device) == ("ort-cuda", CUDA, "a GPU")
        assert runner.precision is Precision.FP32
        assert facts(runner) == Facts(cuda_graph=False, tf32=False)
    assert gpu.asked == [([(CUDA, {"use_tf32": "0"})], {"enable_fallback": 0})]
    assert gpu.entries["session.disable_cpu_ep_fallback"] == "1"


@pytest.mark.parametrize(
    ("override", "tf32"), [(None, True), ("0", False)], ids=["as TensorRT likes", "switched off"]
)
def test_tensorrts_provider_says_whether_tf32_is_on(
    path: Path, a_gpu: Any, monkeypatch: pytest.MonkeyPatch, override: str | None, tf32: bool
) -> None:
    a_gpu(TENSORRT, trt_fp16_enable="0", trt_int8_enable="0", trt_cuda_graph_enable="1")
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    if override is not None:
        monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    with backend("ort-trt").open(path, threads=1) as runner:
        assert facts(runner) == Facts(cuda_graph=True, tf32=tf32)


@pytest.mark.parametrize(
    ("name", "took", "options", "said"),
    [
        ("ort-cuda", CPU, {}, f"asked for {CUDA}, ONNX Runtime took {CPU}"),
        ("ort-trt", CUDA, {}, f"asked for {TENSORRT}, ONNX Runtime took {CUDA}"),
        ("ort-cuda", CUDA, {"use_tf32": "1"}, f"{CUDA} says use_tf32=1"),
        ("ort-trt", TENSORRT, {"trt_fp16_enable": "1"}, f"{TENSORRT} says trt_fp16_enable=1"),
    ],
    ids=["the CPU", "CUDA", "TF32", "fp16"],
)
def test_another_provider_or_precision_than_asked_is_refused(
    path: Path, a_gpu: Any, name: str, took: str, options: dict[str, str], said: str
) -> None:
    a_gpu(took, **options)
    with pytest.raises(NotAvailable) as refusal:
        backend(name).open(path, threads=1)
    assert str(refusal.value).endswith(said)


def test_cuda_computes_in_the_files_precision_and_tensorrt_would_not(tmp_path: Path, a_gpu: Any) -> None:
    file = save(cnn(half=True), tmp_path / "half.onnx")
    a_gpu(CUDA, use_tf32="0")
    with backend("ort-cuda").open(file, threads=1) as runner:
        assert runner.precision is Precision.FP16
    a_gpu(TENSORRT, trt_fp16_enable="0", trt_int8_enable="0")
    with pytest.raises(NotAvailable, match="silently compute in fp32 in TensorRT"):
        backend("ort-trt").open(file, threads=1)


def test_a_gpu_provider_without_a_gpu_says_so(a_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a_gpu(CUDA)
    monkeypatch.setattr(driver, "why_no_gpu", lambda: "no NVIDIA driver is installed")
    assert backend("ort-cuda").why_not() == f"{CUDA} runs only on a GPU: no NVIDIA driver is installed"


def test_what_a_backend_cannot_be_asked_for_is_refused(path: Path) -> None:
    with pytest.raises(InputError, match=r"^ort cannot be asked for bf16; it can for none: "):
        backend("ort").open(path, threads=1, precision=Precision.BF16)
    with pytest.raises(InputError, match=r"^openvino cannot be asked for int8; it can for fp32, fp16, bf16$"):
        backend("openvino").open(path, threads=1, precision=Precision.INT8)
    with pytest.raises(InputError, match=r"^the threads of openvino cannot be told to spin$"):
        backend("openvino").open(path, threads=1, spinning=True)


def test_a_call_writes_where_the_one_before_wrote(path: Path) -> None:
    """Outputs are bound once per batch size: the session allocates none."""
    with OrtRunner(path, threads=1) as runner:
        infer(runner, {"image": images(2)})
        first = [value.data_ptr() for value in runner._binding.get_outputs()]
        infer(runner, {"image": images(2, 5)})
        assert [value.data_ptr() for value in runner._binding.get_outputs()] == first


def test_a_large_input_is_read_where_it_lies(path: Path) -> None:
    wanted = images(64, 3)
    with OrtRunner(path, threads=1) as runner:
        batch = images(64, 9)
        runner.load({"image": batch})
        batch[:] = wanted
        runner.enqueue()
        np.testing.assert_array_equal(runner.fetch()["logits"], infer(runner, {"image": wanted})["logits"])
        for count in (1, 64, 1):  # and a small one after it, which is copied, is another one
            assert close(infer(runner, {"image": images(count, 20)})["logits"], images(count, 20))
