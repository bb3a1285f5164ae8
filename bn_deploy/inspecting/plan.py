"""Looks into a TensorRT plan: what its side-car says and, where there is a GPU for it, its engine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from bn_deploy.backends import trt_engine
from bn_deploy.engine import api, driver, layers, portability, sidecar
from bn_deploy.engine.driver import Gpu
from bn_deploy.engine.sidecar import Sidecar
from bn_deploy.errors import NotAvailable
from bn_deploy.inspecting.inspection import Inspection


def inspect(path: Path, size_bytes: int, sha256: str) -> Inspection:
    """What is in the plan at `path`. Code that it brings for the host is not loaded.

    Raises:
        InputError: the side-car is missing, damaged, or another plan's.
        ModelError: TensorRT does not load the plan, or it computes in another precision than its side-car
            says.
    """
    known, plan = sidecar.read_plan(path)
    found: tuple[layers.EngineLayer, ...] = ()
    notes = []
    try:
        found = _layers(path, known, plan)
    except NotAvailable as reason:
        notes.append(f"the engine's layers cannot be listed here: {reason}")
    else:
        if found and not any(layer.kind for layer in found):
            notes.append("the engine tells only names; build it with --detailed for more")
    about = known.to_json()
    about["profiles"] = [str(batch) for batch in known.profiles]
    about["settings"] = {**known.settings}
    about["not_available"] = about["settings"].pop("not_available", {})
    kept = ("inputs", "outputs", "origin", "plan_sha256", "plan_bytes", "onnx_sha256")
    return Inspection(
        "plan",
        path,
        size_bytes,
        sha256,
        {"onnx_sha256": known.onnx_sha256, **known.origin},
        known.inputs,
        known.outputs,
        {name: value for name, value in about.items() if name not in kept},
        tuple(asdict(layer) for layer in found),
        tuple(notes),
    )


def _layers(path: Path, known: Sidecar, plan: bytes) -> tuple[layers.EngineLayer, ...]:
    """The engine's own list of its layers.

    Raises:
        NotAvailable: this is no machine that could run it.
    """
    gpu = driver.find_gpu()
    if not isinstance(gpu, Gpu):
        raise NotAvailable(gpu)
    if known.carries_host_code:
        raise NotAvailable("it carries code for the host, which is not loaded to look into it")
    trt = api.find(known.tensorrt)
    if (reason := portability.mismatch(known, trt, gpu)) is not None:
        raise NotAvailable(f"it {reason}")
    with trt.listen():
        loaded = trt_engine.load(path, plan, known, trt=trt, device=str(gpu))
        return layers.of_engine(loaded.engine, trt.module)
