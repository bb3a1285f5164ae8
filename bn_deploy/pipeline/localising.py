"""Looks into every form of a network layer by layer. What `verify --localise` adds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array, Runner, infer
from bn_deploy.backends.onnxrt import OrtRunner
from bn_deploy.engine.build import BuildOptions
from bn_deploy.engine.build import build as build_engine
from bn_deploy.exporting.onnx_file import layer_names
from bn_deploy.pipeline.forms import Forms
from bn_deploy.precision.emulate import emulated
from bn_deploy.spec import Stage, Track, silent
from bn_deploy.verify.layers import cut, last_values, marked, of_torch
from bn_deploy.verify.localise import LayerParity, layers
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.rerun import operands
from bn_deploy.verify.tolerance import number_class

LOOKED_AT = 32
"""How many images are looked at layer by layer, the worst ones of every form among them."""

_KINDS = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""What torch has of the classes of numbers; in the others it computes in float32."""


def localise(
    forms: Forms,
    parity: Parity,
    images: Array,
    files: Mapping[str, Path],
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
        files: the ONNX file of each form that has one, by the form's name, such as "onnx.fp16"; an engine's
            is the one that it was built from.
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
    for form in track(parity.stages[1:], "looking into layers", len(parity.stages) - 1):
        stage, _, typed = form.stage.partition(".")
        numbers = number_class(form.precision)
        with operands(numbers):
            own = of_torch(forms.trained, shown, _KINDS.get(numbers.name, torch.float32))
        network = {"converted": forms.converted, "native": forms.converted}.get(stage, forms.folded)
        if form.stage not in files:
            seen, how = of_torch(network, shown, torch.float32), "modules watched"
        else:
            if id(network) not in names:  # an export: once for all files of a network
                names[id(network)] = layer_names(network, inputs=forms.row.inputs, outputs=forms.row.outputs)
            model = onnx.load(files[form.stage])
            # A typed file has every value of the one that it was made from, under the same name.
            values = last_values(model, names[id(network)])
            if stage == Stage.ENGINE.value:
                built_as = replace(options or BuildOptions(), tf32=numbers.name == "tf32")
                seen = _by_cutting(model, values, shown, built_as, threads)
                how = "graph cut after each layer and built again: marking values would change what is fused"
            elif typed:
                seen, how = _by_marking(emulated(model), values, shown, partial(_as_written, threads))
                how = f"emulated, {how}"
            else:
                seen, how = _by_marking(model, values, shown, partial(_optimized, threads))
        rows += layers(form.stage, form.precision, how, exact=exact, own=own, seen=seen)
    return tuple(rows)


def _optimized(threads: int, path: Path) -> Runner:
    return backend("ort").open(path, threads=threads)


def _as_written(threads: int, path: Path) -> Runner:
    """For an emulated file, of which an optimizer would leave out roundings."""
    return OrtRunner(path, threads=threads, optimize=False)


def _chosen(parity: Parity, total: int) -> Sequence[int]:
    """Which images: the worst ones, and others evenly spread."""
    worst = {stage.worst_image for stage in parity.stages}
    spread = np.linspace(0, total - 1, min(total, LOOKED_AT)).astype(int)
    return sorted({*worst, *map(int, spread)})


def _by_marking(
    model: onnx.ModelProto, values: Mapping[str, str], images: Array, opened: Callable[[Path], Runner]
) -> tuple[dict[str, Array], str]:
    """The layers of a file in ONNX Runtime, all from one run; and whether marking changed the result."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:

        def results(graph: onnx.ModelProto, name: str) -> dict[str, Array]:
            path = Path(folder) / name
            path.write_bytes(graph.SerializeToString())
            runner = stack.enter_context(opened(path))
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
        (output,) = parts[0]
        seen[layer] = np.concatenate([part[output] for part in parts]).astype(np.float64)
    return seen
