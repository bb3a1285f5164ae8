"""The steps of tools/gpu_check.py; each runs in a process of its own and fills a dictionary as it goes.

What a step has found is written down part by part, so that a crash in one part does not lose the others.
"""

from __future__ import annotations

import gzip
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bn_deploy.artifact import write_json
from bn_deploy.backends.base import Array, Runner, facts, infer

BATCHES = (1, 8, 64, 256)
WARMUP_CALLS = 20
TIMED_S = 0.3  # for each cell: about a second for a batch with both scopes, with a graph and without


@dataclass
class Step:
    """What a step is given, and where it writes.

    Attributes:
        run: the run folder, with the ONNX files.
        images: the test images, idx, plain or gzipped; the labels may lie beside them.
        work: a folder that all steps share.
        out: the JSON file of this step's findings.
        found: the findings so far.
    """

    run: Path
    images: Path
    work: Path
    out: Path
    found: dict[str, Any]

    @contextmanager
    def part(self, name: str) -> Iterator[dict[str, Any]]:
        """Yields the findings of a part; an error is one of them, and is kept from the other parts."""
        found: dict[str, Any] = {}
        self.found[name] = found
        started = time.perf_counter()
        try:
            yield found
        except Exception as error:  # whatever is wrong with one part, the others are still worth having
            found["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        found["took_s"] = round(time.perf_counter() - started, 2)
        write_json(self.out, self.found)


def read_images(path: Path) -> Array:
    """The test images (N, 1, 28, 28), float32 from 0 to 1, as the network was trained on them."""
    from bn_deploy.data import idx

    pixels = idx.parse(_bytes(path), axes=3, source=path.name)
    scaled: Array = np.divide(pixels[:, None], 255, dtype=np.float32)
    return scaled


def read_labels(images: Path) -> Array | None:
    """The labels (N,) beside the images, or None."""
    from bn_deploy.data import idx

    path = images.with_name(images.name.replace("images-idx3", "labels-idx1"))
    return idx.parse(_bytes(path), axes=1, source=path.name) if path.is_file() else None


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def timed(call: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a call, as quantiles over at least ten calls after a warm-up."""
    for _ in range(WARMUP_CALLS):
        call()
    samples: list[float] = []
    began = time.perf_counter()
    while len(samples) < 10 or time.perf_counter() - began < TIMED_S:
        started = time.perf_counter()
        call()
        samples.append(time.perf_counter() - started)
    low, middle, high = np.quantile(samples, [0.05, 0.5, 0.95])
    return {"calls": len(samples), "p05_s": float(low), "p50_s": float(middle), "p95_s": float(high)}


def latency(runner: Runner, images: Array) -> dict[str, dict[str, Any]]:
    """The times of a runner at each batch size that it takes: compute, transfers, and end to end."""
    name = runner.inputs[0].name
    rows = {}
    for batch in BATCHES:
        feeds = {name: np.ascontiguousarray(images[:batch])}
        runner.load(feeds)

        def there(feeds: Mapping[str, Array] = feeds) -> None:
            runner.load(feeds)
            runner.synchronize()

        def compute() -> None:
            runner.enqueue()
            runner.synchronize()

        def whole(feeds: Mapping[str, Array] = feeds) -> None:
            infer(runner, feeds)

        cells = {"h2d": timed(there), "compute": timed(compute), "d2h": timed(runner.fetch)}
        rows[str(batch)] = {**cells, "end_to_end": timed(whole)}
    return rows


def parity(
    predict: Callable[[Array], Array], images: Array, labels: Array | None, wanted: Array | None
) -> dict[str, Any]:
    """How the logits of a network compare over all images with the labels and with the float64 logits."""
    logits = np.concatenate([predict(images[at : at + 250]) for at in range(0, len(images), 250)])
    found: dict[str, Any] = {"images": len(images)}
    if not np.isfinite(logits).all():
        raise ValueError("a logit is not finite")
    if labels is not None:
        found["accuracy"] = float((logits.argmax(1) == labels).mean())
    if wanted is not None:
        found["largest_difference"] = float(np.abs(logits - wanted).max())
        found["largest_logit"] = float(np.abs(wanted).max())
        found["labels_that_differ"] = int((logits.argmax(1) != wanted.argmax(1)).sum())
        if labels is not None:
            before = float((wanted.argmax(1) == labels).mean())
            found["points_lost"] = round((before - found["accuracy"]) * 100, 4)
    return found


def reference(step: Step) -> None:
    """The logits of the trained network in float64, on the CPU."""
    import torch

    with step.part("float64") as found:
        network = _trained(step.run).double()
        images = torch.from_numpy(read_images(step.images))
        with torch.inference_mode():
            parts = [network(images[at : at + 500].double()) for at in range(0, len(images), 500)]
        logits = torch.cat(parts)
        np.save(step.work / "float64.npy", logits.numpy())
        labels = read_labels(step.images)
        if labels is not None:
            found["accuracy"] = float((logits.numpy().argmax(1) == labels).mean())


def _trained(run: Path) -> Any:
    from bn_deploy import run_folder as kinds
    from bn_deploy.train.checkpoint import load_checkpoint

    folder = kinds.RunFolder(run)
    own = folder.find(kinds.CHECKPOINT) or folder.find(kinds.FOREIGN_CHECKPOINT)
    if own is None:
        raise FileNotFoundError(f"no checkpoint is recorded in {run}")
    return load_checkpoint(own.path).network


def graph_of(runner: Runner) -> str:
    """Whether a runner launches a call as one CUDA graph: "on", "off", or "off: " and why not."""
    known = facts(runner)
    if known.no_cuda_graph:
        return f"off: {known.no_cuda_graph}"
    return "on" if known.cuda_graph else "off"


def engine(step: Step, precision: str) -> None:
    """Builds an engine here, and has it run in every way."""
    from bn_deploy import run_folder as kinds
    from bn_deploy.backends import backend
    from bn_deploy.backends.options import RunOptions
    from bn_deploy.engine.build import BuildOptions, build
    from bn_deploy.spec import Precision

    tf32 = precision == "tf32"
    wanted = Precision.FP32 if tf32 else Precision(precision)
    plan = step.work / f"{precision}.plan"
    with step.part("build") as found:
        source = kinds.RunFolder(step.run).require(kinds.of_precision(kinds.FOLDED, wanted)).path
        options = BuildOptions(precision=wanted, tf32=tf32, detailed=True, timing_cache=False)
        result = build(source, plan, options=options)
        found["sidecar"] = result.sidecar.to_json()
        found["warnings"] = list(result.warnings)
    if "failed" in found:
        return
    images, labels = read_images(step.images), read_labels(step.images)
    reference_path = step.work / "float64.npy"
    exact = np.load(reference_path) if reference_path.is_file() else None
    logits: dict[bool, Array] = {}
    for graph in (False, True):
        with ExitStack() as stack:
            runner: Any = None
            with step.part("graph" if graph else "plain") as found:
                runner = stack.enter_context(
                    backend("trt").open(plan, threads=1, running=RunOptions(cuda_graph=graph))
                )
                name, output = runner.inputs[0].name, runner.outputs[0].name

                def predict(part: Array, runner: Any = runner, name: str = name, output: str = output) -> Any:
                    return infer(runner, {name: part})[output]

                found["precision"] = runner.precision.value
                found["parity"] = parity(predict, images, labels, exact)
                logits[graph] = predict(images[:256])
                found["cuda_graph"] = graph_of(runner)
            if runner is not None:
                with step.part("graph_latency" if graph else "plain_latency") as found:
                    found["batches"] = latency(runner, images)
                    found["cuda_graph"] = graph_of(runner)
    if len(logits) < 2:
        return  # one of the two did not run, which is told already
    with step.part("graph_against_plain") as found:
        found["same_bits"] = bool(np.array_equal(logits[False], logits[True]))
        found["largest_difference"] = float(np.abs(logits[False] - logits[True]).max())


def torch_gpu(step: Step, kind: str) -> None:
    """Times the network in torch on the GPU, eager or compiled, in fp32 without TF32 and in fp16."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    images = read_images(step.images)
    for dtype in (torch.float32, torch.float16):
        with step.part(str(dtype).removeprefix("torch.")) as found:
            network = _trained(step.run).to("cuda", dtype).eval()
            if kind == "compile":
                network = torch.compile(network, mode="reduce-overhead")
            with torch.inference_mode():
                found["batches"] = {
                    str(batch): _torch_cells(torch, network, images[:batch], dtype) for batch in BATCHES
                }


def _torch_cells(torch: Any, network: Any, images: Array, dtype: Any) -> dict[str, Any]:
    host = torch.from_numpy(np.ascontiguousarray(images)).pin_memory()
    device = host.to("cuda", dtype)

    def compute() -> None:
        network(device)
        torch.cuda.synchronize()

    def whole() -> None:
        network(host.to("cuda", non_blocking=True).to(dtype)).float().cpu().numpy()

    return {"compute": timed(compute), "end_to_end": timed(whole)}


def ort_cuda(step: Step) -> None:
    """Times the folded file in ONNX Runtime on the GPU."""
    from bn_deploy import run_folder as kinds
    from bn_deploy.backends import backend

    with step.part("fp32") as found:
        source = kinds.RunFolder(step.run).require(kinds.FOLDED).path
        with backend("ort-cuda").open(source, threads=1) as runner:
            found["provider"] = runner.provider
            found["batches"] = latency(runner, read_images(step.images))


def environment(step: Step) -> None:
    """What the machine is."""
    from bn_deploy.bench.environment import environment as describe
    from bn_deploy.engine import api, driver

    with step.part("gpu") as found:
        gpu = driver.gpu()
        found.update(name=gpu.name, compute_capability=list(gpu.compute_capability))
        found["driver_cuda"] = list(gpu.driver_version)
    with step.part("tensorrt") as found:
        found["version"] = str(api.find())
    with step.part("machine") as found:
        found.update(describe())


def run_step(name: str, step: Step) -> None:
    """Runs the step called `name`, such as "engine:fp16"."""
    kind, _, what = name.partition(":")
    if kind == "engine":
        engine(step, what)
    elif kind == "torch":
        torch_gpu(step, what)
    else:
        {"environment": environment, "reference": reference, "ort-cuda": ort_cuda}[kind](step)
    write_json(step.out, step.found)
    sys.stdout.flush()
