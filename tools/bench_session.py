"""Compares the session that `bn-deploy bench` times with scripts that an expert would write by hand.

    python tools/bench_session.py model.onnx              batch sizes 1, 8, 64 and 256
    python tools/bench_session.py model.onnx --batch 1

Each script uses ONNX Runtime alone: one thread, every optimization, no check of the inputs. "run" calls
`session.run`; "bound" copies to and from arrays that stay bound. All are timed end to end, by the lines and
in the processes of `bn-deploy bench`. Exits with 1 where the session of bn-deploy is SLOWER.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array, Feeds, Runner
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.measure import CLOCK
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.replicate import replicate
from bn_deploy.bench.verdict import Verdict, between
from bn_deploy.bench.worker import work
from bn_deploy.cli.console import track
from bn_deploy.spec import Precision, TensorSpec
from bn_deploy.verify.files import random_feeds
from machine import machine


class Script:
    """A hand-written script with the four verbs of a runner.

    Args:
        path: the ONNX file.
        bound: copy to and from arrays that stay bound, instead of calling `session.run`.
    """

    backend, device, provider, precision = "script", "cpu", "CPUExecutionProvider", Precision.FP32
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    def __init__(self, path: str, *, bound: bool) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._session: Any = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._binding: Any = self._session.io_binding() if bound else None
        self._feeds: Feeds = {}
        self._bound: dict[str, Array] = {}
        self._results: list[Array] = []

    def __enter__(self) -> Script:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def load(self, feeds: Feeds) -> None:
        """See Runner."""
        if self._binding is None:
            self._feeds = feeds
            return
        for name, array in feeds.items():
            mine = self._bound.get(name)
            if mine is None or len(mine) != len(array):
                self._bind(feeds)
                return
            np.copyto(mine, array)

    def enqueue(self) -> None:
        """See Runner."""
        if self._binding is None:
            self._results = self._session.run(self._names, self._feeds)
        else:
            self._session.run_with_iobinding(self._binding)

    def synchronize(self) -> None:
        """See Runner."""

    def fetch(self) -> dict[str, Array]:
        """See Runner."""
        if self._binding is None:
            return dict(zip(self._names, self._results, strict=True))
        return {name: array.copy() for name, array in zip(self._names, self._results, strict=True)}

    def _bind(self, feeds: Feeds) -> None:
        """Makes room for such inputs, and for outputs as large as `session.run` finds them."""
        self._results = self._session.run(self._names, dict(feeds))
        for name, array in zip(self._names, self._results, strict=True):
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in feeds.items():
            self._bound[name] = array.copy()
            self._binding.bind_cpu_input(name, self._bound[name])


def opened(candidate: Candidate) -> Runner:
    """bn-deploy's own session, or a script."""
    if candidate.backend == "ort":
        return backend("ort").open(Path(candidate.source.path), threads=1)
    return Script(candidate.source.path, bound=candidate.label == "bound")


def main() -> int:
    """Times the three and prints the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(sys.stdin, opened, sys.stdout)
        return 0
    if arguments.model is None:
        parser.error("name an ONNX file")
    source = Source("onnx", str(arguments.model.resolve()))
    session = Candidate("session", "ort", source, 1)
    scripts = [Candidate(label, "script", source, 1) for label in ("run", "bound")]
    options = MeasureOptions(
        batch_sizes=tuple(arguments.batch or (1, 8, 64, 256)), budget_s=arguments.seconds
    )
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder, "inputs.npz")
        with opened(session) as runner:
            np.savez(inputs, **random_feeds(runner.inputs))  # type: ignore[arg-type]  # a name may be any
        found = replicate(
            [*scripts, session, session.twin()],
            inputs,
            options,
            command=[sys.executable, os.path.abspath(__file__), "--worker"],  # noqa: PTH100 - no symlink is followed
            deadline=CLOCK() + options.budget_s,
            track=track,
        )
    slower = False
    print("how long the session of bn-deploy takes, as a multiple of a script's time, end to end")
    for row, bound, mine, again in zip(*[iter(found.results)] * 4, strict=True):
        for other in (row, bound, again):
            ratio = between(other, mine)
            said = ratio.verdict()
            interval = "" if ratio.low is None else f"[{ratio.low:.3f}, {ratio.high:.3f}]"
            verdict = said.value if said else "n/a"
            print(f"batch {row.batch:>4}  {other.name:<18}{ratio.value:>7.3f} {interval:<15} {verdict}")
            slower |= said is Verdict.SLOWER and not other.again
    print(machine())
    return int(slower)


if __name__ == "__main__":
    sys.exit(main())
