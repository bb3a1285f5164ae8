"""Shows what the verdicts of `bn-deploy bench` are worth on this machine.

    python tools/bench_selftest.py                         100 trials of real processes, beside two busy loops
    python tools/bench_selftest.py --trials 20 --load 0    fewer, on a machine that is left alone
    python tools/bench_selftest.py --simulate latency.json 2,000 trials drawn from the noise in a measurement

In each trial, nine fresh processes time three candidates with the very lines of `bn-deploy bench`: counted
work, the same work again, and 5 % more of it. The first pair must be called SAME or UNDECIDED, the second
SLOWER. Beside the interval that is used (see bench/intervals.py), the table has what others would have said.
Exits with 1 if the first pair is called FASTER or SLOWER more than 5 times of 100, or the second SLOWER less
than 90 times of 100.
"""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from bn_deploy.backends.base import Array, Feeds
from bn_deploy.bench import intervals
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.bench.measure import CLOCK
from bn_deploy.bench.options import PROCESSES, MeasureOptions
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.replicate import replicate
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.bench.verdict import Ratio, Verdict, log_ratios
from bn_deploy.bench.worker import work
from bn_deploy.cli.console import track
from bn_deploy.spec import Precision, TensorSpec
from machine import machine

Logs = NDArray[np.float64]
Interval = Callable[[Logs], "tuple[float, float] | None"]

UNITS = 100
"""Products of a small matrix with a vector in one call: some 100 microseconds."""

MORE = 1.05
OPTIONS = MeasureOptions(batch_sizes=(1,), scopes=("compute",), budget_s=14.0, rounds=60, warmup_s=0.005)
SIMULATED = 2_000
FALSE_ALARMS, FOUND = 0.05, 0.90


class Work:
    """A runner that does counted work: so many products of the same matrix and vector."""

    backend, device, provider, precision = "work", "cpu", "numpy", Precision.FP32
    inputs = (TensorSpec("vector", (None, 32), "float32"),)
    outputs = inputs

    def __init__(self, units: int) -> None:
        self._units = units
        self._matrix = np.eye(32, dtype=np.float32)
        self._vector: Array = np.zeros((1, 32), np.float32)

    def __enter__(self) -> Work:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def load(self, feeds: Feeds) -> None:
        """See Runner."""
        self._vector = feeds["vector"]

    def enqueue(self) -> None:
        """See Runner."""
        matrix, vector = self._matrix, self._vector
        for _ in range(self._units):
            vector = vector @ matrix

    def synchronize(self) -> None:
        """See Runner."""

    def fetch(self) -> dict[str, Array]:
        """See Runner."""
        return {"vector": self._vector.copy()}


def bootstrap(logs: Logs) -> tuple[float, float]:
    """Percentile interval of the median over processes drawn again 2,000 times."""
    drawn = np.random.default_rng(0).choice(logs, (2000, len(logs)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)


def signed_ranks(logs: Logs) -> tuple[float, float]:
    """Wilcoxon's: the sixth smallest and largest average of any two of nine processes, 96.1 %."""
    first, second = np.triu_indices(len(logs))
    averages = np.sort((logs[first] + logs[second]) / 2)
    return float(averages[5]), float(averages[-6])


def student(logs: Logs) -> tuple[float, float]:
    """Student's t for the mean of nine processes."""
    reach = 2.306 * logs.std(ddof=1) / math.sqrt(len(logs))
    return float(logs.mean() - reach), float(logs.mean() + reach)


def calls(result: tuple[LatencyResult, LatencyResult]) -> tuple[float, float]:
    """What is wrong with most benchmarks: an interval over calls, as if they all came from one process."""
    before, after = (np.concatenate([np.log(run.samples_s) for run in row.runs]) for row in result)
    reach = 1.96 * math.sqrt(before.var() / len(before) + after.var() / len(after))
    shift = float(np.median(after) - np.median(before))
    return shift - reach, shift + reach


METHODS: dict[str, Interval] = {
    "order statistics (used)": intervals.paired,
    "signed ranks": signed_ranks,
    "bootstrap of the median": bootstrap,
    "Student's t": student,
    "smallest to largest": lambda logs: (float(logs.min()), float(logs.max())),
}


def verdict(logs: Logs, found: tuple[float, float] | None) -> Verdict | None:
    """What would be said of these processes with that interval."""
    low, high = (None, None) if found is None else map(math.exp, found)
    return Ratio(math.exp(float(np.median(logs))), low, high, len(logs)).verdict()


def trial(number: int, folder: Path) -> list[tuple[LatencyResult, LatencyResult]]:
    """One measurement: the work with itself, and with 5 % more."""
    first = Candidate("work", "work", Source("work", "", str(UNITS)), 1)
    more = Candidate("more", "work", Source("work", "", str(round(UNITS * MORE))), 1)
    found = replicate(
        [first, first.twin(), more],
        folder / "inputs.npz",
        MeasureOptions(**{**vars(OPTIONS), "seed": number}),
        command=[sys.executable, os.path.abspath(__file__), "--worker"],  # noqa: PTH100 - no symlink is followed
        deadline=CLOCK() + OPTIONS.budget_s,
        track=lambda items, *_: iter(items),
    )
    same, again, slower = found.results
    return [(same, again), (same, slower)]


def measured(trials: int, load: int) -> tuple[list[Counter[str]], Logs]:
    """Verdicts of each method on both pairs, from real processes; and the log ratios of the first."""
    counts: list[Counter[str]] = [Counter(), Counter()]
    noise: list[float] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        np.savez(folder / "inputs.npz", vector=np.ones((1, 32), np.float32))
        for _ in range(load):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        for number in track(range(trials), "trials", trials):
            for pair, count in zip(trial(number, folder), counts, strict=True):
                logs = log_ratios(*pair)
                if count is counts[0]:
                    noise += list(logs)
                _tally(count, logs, {"calls, not processes": calls(pair)})
    return counts, np.array(noise)


def simulated(noise: Logs, processes: int = PROCESSES) -> list[Counter[str]]:
    """The same from processes drawn from recorded ones, whose sign is drawn: copies can be exchanged."""
    draw = np.random.default_rng(0)
    counts: list[Counter[str]] = [Counter(), Counter()]
    for _ in range(SIMULATED):
        logs = draw.choice(noise, processes) * draw.choice([-1.0, 1.0], processes)
        for count, shift in zip(counts, (0.0, math.log(MORE)), strict=True):
            _tally(count, logs + shift, {})
    return counts


def _tally(count: Counter[str], logs: Logs, others: dict[str, tuple[float, float]]) -> None:
    found = {**{name: method(logs) for name, method in METHODS.items()}, **others}
    for name, interval in found.items():
        said = verdict(logs, interval)
        count[f"{name}: {said.value if said else 'n/a'}"] += 1


def show(counts: Sequence[Counter[str]], trials: int) -> int:
    """Prints the table; 1 if the method in use breaks a promise, else 0."""
    names = dict.fromkeys(key.partition(":")[0] for key in counts[0])
    kinds = [kind.value for kind in Verdict]
    print(f"{'interval over processes by':<26}{'work against itself':^44}{'5 % more work':^44}")
    print(f"{'':<26}" + 2 * "".join(f"{kind:>11}" for kind in kinds))
    for name in names:
        cells = [count[f"{name}: {kind}"] / trials for count in counts for kind in kinds]
        print(f"{name:<26}" + "".join(f"{cell:>11.1%}" for cell in cells))
    used = next(iter(METHODS))
    alarms = sum(counts[0][f"{used}: {kind}"] for kind in ("FASTER", "SLOWER")) / trials
    found = counts[1][f"{used}: SLOWER"] / trials
    print(f"false alarms {alarms:.1%} (at most {FALSE_ALARMS:.0%}), found {found:.1%} (at least {FOUND:.0%})")
    return int(alarms > FALSE_ALARMS or found < FOUND)


def main() -> int:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--load", type=int, default=2, help="busy loops beside the trials")
    parser.add_argument("--simulate", type=Path, metavar="latency.json", help="draw trials from its noise")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(sys.stdin, lambda candidate: Work(int(candidate.source.form)), sys.stdout)
        return 0
    if arguments.simulate:
        rows = LatencyRecord.read(arguments.simulate).results
        pairs = [
            (row, twin)
            for twin in rows
            for row in rows
            if twin.again and not row.again and (row.backend, row.model) == (twin.backend, twin.model)
            if (row.batch, row.scope) == (twin.batch, twin.scope)
        ]
        noise = np.concatenate([log_ratios(*pair) for pair in pairs])
        print(f"{SIMULATED:,} trials drawn from {len(noise)} processes of {arguments.simulate}")
        return show(simulated(noise), SIMULATED)
    counts, noise = measured(arguments.trials, arguments.load)
    print(f"{arguments.trials} trials of {OPTIONS.processes} processes beside {arguments.load} busy loops")
    code = show(counts, arguments.trials)
    print(f"\n{SIMULATED:,} trials drawn from those processes")
    show(simulated(noise), SIMULATED)
    print(f"\n{machine()}")
    return code


if __name__ == "__main__":
    sys.exit(main())
