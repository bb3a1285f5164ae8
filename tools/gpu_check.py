"""Everything that needs a GPU, in one command and within 8 minutes.

    python tools/gpu_check.py --run runs/lenet --images t10k-images-idx3-ubyte.gz [--trt-path DIR]

Builds an engine of every precision that the run folder has a file for, runs it over all test images with and
without a CUDA graph, and times it against torch eager, torch.compile and ONNX Runtime's CUDA provider. Writes
one JSON and one text file under tools/gpu_results/. The run folder comes from any machine: `bn-deploy train`
and `bn-deploy export --fold-bn --precision ...`.

Each step runs in a process of its own under its own time limit: one that fails, hangs or crashes costs its
own figures only, and is listed with the reason. Exit code 3: there is no GPU here; 1: a step failed.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package need not be installed where this runs

from bn_deploy.artifact import write_bytes, write_json  # noqa: E402 - see above
from bn_deploy.engine import driver  # noqa: E402 - see above
from bn_deploy.errors import InputError  # noqa: E402 - see above

RESULTS = ROOT / "tools" / "gpu_results"
BUDGET_S = 480.0
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "int8+fp16")

# Step -> most seconds it may take; in the order of what matters most.
STEPS: Mapping[str, float] = {
    "environment": 40,
    "reference": 60,
    **{f"engine:{precision}": 75 for precision in PRECISIONS},
    "torch:eager": 45,
    "ort-cuda": 45,
    "torch:compile": 120,
}

Run = Callable[[str, Path, float], str | None]
"""Runs a step that writes its findings to a file, within some seconds; returns why it did not end well."""


def child(arguments: argparse.Namespace, work: Path) -> Run:
    """Runs each step in a fresh interpreter."""

    def run(name: str, out: Path, limit_s: float) -> str | None:
        command = [sys.executable, str(Path(__file__).resolve()), "--step", name, "--out", str(out)]
        command += ["--run", str(arguments.run), "--images", str(arguments.images), "--work", str(work)]
        if arguments.trt_path:
            command += ["--trt-path", str(arguments.trt_path)]
        try:
            done = subprocess.run(  # noqa: S603 - this very file
                command, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {limit_s:.0f} s"
        if done.returncode == 0:
            return None
        said = (done.stderr.strip().splitlines() or [""])[-1]
        return f"ended with status {done.returncode}: {said}" if said else f"ended with {done.returncode}"

    return run


def collect(run: Run, work: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The findings of every step that there was time for, and how each ended; Ctrl-C leaves out the rest."""
    began, over = time.monotonic(), False
    steps: dict[str, Any] = {}
    for name, limit_s in STEPS.items():
        left_s = BUDGET_S - (time.monotonic() - began)
        out = work / f"{re.sub('[^a-z0-9]+', '-', name)}.json"
        reason: str | None = "interrupted" if over else "no time was left"
        if left_s >= 5 and not over:
            say(f"{name} ...")
            try:
                reason = run(name, out, min(limit_s, left_s))
            except KeyboardInterrupt:
                reason, over = "interrupted", True
        found = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        steps[name] = {"problem": reason, "found": found}
    return {"took_s": round(time.monotonic() - began, 1), "steps": steps}


def problems(results: Mapping[str, Any]) -> list[str]:
    """What did not work, one line each."""
    lines = []
    for name, step in results["steps"].items():
        if step["problem"]:
            lines.append(f"{name}: {step['problem']}")
        for part, found in step["found"].items():
            if "failed" in found:
                lines.append(f"{name}, {part}: {found['failed']}")
    return lines


def text(results: Mapping[str, Any]) -> str:
    """The findings for a person: what was measured, when and on what, and what was not."""
    steps = {name: step["found"] for name, step in results["steps"].items()}
    environment = steps["environment"]
    gpu = environment.get("gpu", {})
    capability = ".".join(map(str, gpu.get("compute_capability", [])))
    tensorrt = environment.get("tensorrt", {}).get("version", "no TensorRT")
    columns = ("accuracy", "points lost", "largest diff", "labels off")
    lines = [
        f"{results['date']}: {gpu.get('name', 'GPU')}, compute capability {capability}, {tensorrt}",
        "",
        f"{'parity':<12}{''.join(f'{column:>14}' for column in columns)}  CUDA graph",
    ]
    for precision in PRECISIONS:
        found = steps[f"engine:{precision}"]
        parity = found.get("plain", {}).get("parity")
        if parity:
            same = found.get("graph_against_plain", {}).get("same_bits")
            graph = found.get("graph", {}).get("cuda_graph", "not run")
            cells = (
                _number(parity.get("accuracy"), ".4f"),
                _number(parity.get("points_lost"), "+.2f"),
                _number(parity.get("largest_difference"), ".2e"),
                _number(parity.get("labels_that_differ"), "d"),
            )
            bits = "" if same is None else ", same bits" if same else ", other bits"
            lines.append(f"{precision:<12}{''.join(f'{cell:>14}' for cell in cells)}  {graph}{bits}")
    for scope in ("compute", "end_to_end"):
        lines += ["", *_times(steps, scope)]
    missing = problems(results)
    lines += ["", *(f"not measured: {line}" for line in missing)]
    return "\n".join(lines).rstrip() + "\n"


def _times(steps: Mapping[str, Any], scope: str) -> list[str]:
    """A row for each way to run the network: median milliseconds and images a second per batch size."""
    rows: dict[str, Mapping[str, Any]] = {}
    for precision in PRECISIONS:
        for way in ("plain", "graph"):
            part = steps[f"engine:{precision}"].get(f"{way}_latency", {})
            if "batches" in part and (way == "plain" or part.get("cuda_graph") == "on"):
                rows[f"TensorRT {precision}{', CUDA graph' if way == 'graph' else ''}"] = part["batches"]
    for name, label in (("torch:eager", "torch"), ("torch:compile", "torch.compile"), ("ort-cuda", "ORT")):
        for part, found in steps[name].items():
            if "batches" in found:
                rows[f"{label} {part}"] = found["batches"]
    sizes = sorted({int(size) for batches in rows.values() for size in batches})
    head = f"{scope + ', ms (images/s)':<34}" + "".join(f"{f'batch {size}':>24}" for size in sizes)
    return [
        head,
        *(f"{name:<34}{''.join(_cell(row, size, scope) for size in sizes)}" for name, row in rows.items()),
    ]


def _cell(row: Mapping[str, Any], size: int, scope: str) -> str:
    cell = row.get(str(size), {}).get(scope)
    return f"{_one(cell['p50_s'], size):>24}" if cell else f"{'-':>24}"


def _one(seconds: float, size: int) -> str:
    return f"{seconds * 1e3:.3f} ({size / seconds:,.0f})"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def write(results: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """Writes the JSON and the text, named by date and GPU."""
    gpu = results["steps"]["environment"]["found"].get("gpu", {}).get("name", "gpu")
    name = f"{results['date'][:10]}-{re.sub('[^A-Za-z0-9]+', '-', gpu).strip('-').lower()}"
    paths = folder / f"{name}.json", folder / f"{name}.txt"
    write_json(paths[0], dict(results))
    write_bytes(paths[1], text(results).encode())
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the check, or one of its steps in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--run", type=Path, default=Path("runs/lenet"), help="run folder with ONNX files")
    parser.add_argument("--images", type=Path, required=True, help="t10k-images-idx3-ubyte, may be .gz")
    parser.add_argument("--trt-path", type=Path, help="folder of a TensorRT that is not installed")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the two files go")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.trt_path:
        sys.path.insert(0, str(arguments.trt_path))
    if arguments.step:
        from gpu_steps import Step, run_step

        run_step(arguments.step, Step(arguments.run, arguments.images, arguments.work, arguments.out, {}))
        return 0
    if (reason := driver.why_no_gpu()) is not None:
        print(f"gpu_check: nothing to check: {reason}", file=sys.stderr)
        return 3
    for path in (arguments.run / "manifest.json", arguments.images):
        if not path.is_file():
            print(f"gpu_check: {path} is missing", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory() as work:
        date = dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
        results = {"format": "bn-deploy-gpu-check/1", "date": date}
        results |= collect(child(arguments, Path(work)), Path(work), lambda line: print(line, flush=True))
    try:
        paths = write(results, arguments.results)
    except InputError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return error.exit_code
    print(text(results) + "\n".join(f"wrote {path}" for path in paths))
    return int(bool(problems(results)))


if __name__ == "__main__":
    sys.exit(main())
