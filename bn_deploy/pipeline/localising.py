"""Looks into every form of a network layer by layer. What `verify --localise` adds."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import torch

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array, infer
from bn_deploy.engine.build import BuildOptions
from bn_deploy.engine.build import build as build_engine
from bn_deploy.exporting.onnx_file import layer_names
from bn_deploy.pipeline.forms import Forms
from bn_deploy.spec import Stage, Track, silent
from bn_deploy.verify.layers import cut, last_values, marked, of_torch
from bn_deploy.verify.localise import LayerParity, layers
from bn_deploy.verify.parity import Parity

LOOKED_AT = 32
"""How many images are looked at layer by layer, the worst ones of every form among them."""


def localise(
    forms: Forms,
    parity: Parity,
    images: Array,
    files: Mapping[Stage, Path],
    *,
    options: BuildOptions | None = None,
    threads: int = 1,
    track: Track = silent,
) -> tuple[LayerParity, ...]:
    """Every layer of every form that ran, against the trained network's in float64.

    Args:
        forms: the forms that are torch modules.
        parity: the comparison, which knows the worst images.
        images: (N, ...) all of them.
        files: the ONNX file of each form that has one; the engine's is the one that it was built from.
        options: how the engine was built; its parts are built alike.
        threads: CPU threads of each backend that has them.
        track: follows the forms.

    Raises:
        NotAvailable: a runtime is missing.
    """
    shown = images[_chosen(parity, len(images))]
    exact = of_torch(forms.trained, shown, torch.float64)
    rows: list[LayerParity] = []
    names: dict[int, dict[str, str]] = {}
    looked_into = [stage for stage in parity.stages[1:] if stage.stage in {known.value for known in Stage}]
    for stage in track(looked_into, "looking into layers", len(looked_into)):
        kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
        own = of_torch(forms.trained, shown, kinds.get(stage.precision, torch.float32))
        network = {Stage.CONVERTED: forms.converted, Stage.NATIVE: forms.converted}.get(
            Stage(stage.stage), forms.folded
        )
        name = Stage(stage.stage)
        if name not in files:
            seen, how = of_torch(network, shown, torch.float32), "modules watched"
        else:
            if id(network) not in names:  # an export: once for all files of a network
                names[id(network)] = layer_names(network, inputs=forms.row.inputs, outputs=forms.row.outputs)
            model = onnx.load(files[name])
            values = last_values(model, names[id(network)])
            if name is Stage.ENGINE:
                seen = _by_cutting(model, values, shown, options or BuildOptions(), threads)
                how = "graph cut after each layer and built again: marking values would change what is fused"
            else:
                seen, how = _by_marking(model, values, shown, threads)
        rows += layers(stage.stage, stage.precision, how, exact=exact, own=own, seen=seen)
    return tuple(rows)


def _chosen(parity: Parity, total: int) -> Sequence[int]:
    """Which images: the worst ones, and others evenly spread."""
    worst = {stage.worst_image for stage in parity.stages}
    spread = np.linspace(0, total - 1, min(total, LOOKED_AT)).astype(int)
    return sorted({*worst, *map(int, spread)})


def _by_marking(
    model: onnx.ModelProto, values: Mapping[str, str], images: Array, threads: int
) -> tuple[dict[str, Array], str]:
    """The layers of a file in ONNX Runtime, all from one run; and whether marking changed the result."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def results(graph: onnx.ModelProto, name: str) -> dict[str, Array]:
            path = Path(folder) / name
            path.write_bytes(graph.SerializeToString())
            runner = stack.enter_context(backend("ort").open(path, threads=threads))
            return infer(runner, {runner.inputs[0].name: images})

        plain = results(model, "plain.onnx")
        found = results(marked(model, values.values()), "marked.onnx")
    same = all(np.array_equal(plain[name], found[name], equal_nan=True) for name in plain)
    how = "values marked as outputs" + ("" if same else ", which changed the result: other layers are fused")
    return {layer: found[v].astype(np.float64) for layer, v in values.items() if v in found}, how


def _by_cutting(
    model: onnx.ModelProto, values: Mapping[str, str], images: Array, options: BuildOptions, threads: int
) -> dict[str, Array]:
    """The layers of an engine: for each, the part of the graph before it, built on its own."""
    seen: dict[str, Array] = {}
    for layer, value in values.items():
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "part.onnx", Path(folder) / "part.plan"
            source.write_bytes(cut(model, value).SerializeToString())
            build_engine(source, target, options=options)
            with backend("trt").open(target, threads=threads) as runner:
                parts = [
                    infer(runner, {runner.inputs[0].name: images[i : i + 1]}) for i in range(len(images))
                ]
        seen[layer] = np.concatenate([part[value] for part in parts]).astype(np.float64)
    return seen
