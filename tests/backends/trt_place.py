"""A machine with a GPU and a plan on it, all of it fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bn_deploy.artifact import sha256_bytes
from bn_deploy.backends import trt
from bn_deploy.engine import api, driver, sidecar
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.spec import BatchRange, Precision, TensorSpec
from tests.backends.fake_engine import VERSION, Engine, HostMemory, make

Put = Callable[[Any, str, Any], None]
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


def pretend(put: Put, answers: Engine, memory: Callable[[], HostMemory], version: str = VERSION) -> None:
    """Puts a GPU and a TensorRT of that version in place of what is here.

    Args:
        put: sets an attribute of a module.
        answers: what the engine says and does.
        memory: makes the memory of each runner.
        version: of TensorRT.
    """

    def find(name: str) -> TensorRT:
        assert name == "tensorrt"
        return make(answers, version)

    put(api, "why_not", lambda: None)
    put(driver, "find_gpu", lambda: GPU)
    put(trt, "open_memory", memory)
    put(api, "find", find)


class Place:
    """A machine with a GPU and a plan on it, all of it fake; each part can be changed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plan = folder / "model.plan"
        self.plan.write_bytes(PLAN)
        self.memory = HostMemory()
        self.monkeypatch = monkeypatch
        self.write(KNOWN)
        self.use(Engine())

    def put(self, owner: Any, name: str, value: Any) -> None:
        self.monkeypatch.setattr(owner, name, value)

    def use(self, answers: Engine, version: str = VERSION) -> Engine:
        pretend(self.put, answers, lambda: self.memory, version)
        return answers

    def write(self, known: Sidecar) -> None:
        sidecar.write(self.plan, known)

    def open(self, **options: Any) -> trt.TrtRunner:
        return trt.open_runner(self.plan, threads=1, **options)


def image(rows: int, start: int = 0) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    return {"image": np.arange(start, start + 3 * rows, dtype=np.float32).reshape(rows, 3)}
