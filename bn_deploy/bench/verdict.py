"""Which of two networks is faster, and whether that can be said at all.

For each process: the ratio of the two networks' block medians, round by round, and the median of its
logarithm over the rounds; a disturbance that lasts for a round cancels out. The estimate is the median of
that over the processes, the interval is that of `intervals.paired`. The verdict is read off the interval:

    FASTER, SLOWER   all of it lies beyond the floor
    SAME             all of it lies within 2 %
    UNDECIDED        anything else

The floor is 2 %, below which a difference is of no use to anybody, or what the same network differs from
itself by in the very same run, if that is more.

**Many comparisons.** Each interval holds with 95 % confidence by itself. A run of m comparisons is not
corrected for m: the floor is the guard, because to be FASTER by mistake the whole interval must miss the
truth by more than 2 %. `tools/bench_selftest.py` counts how often that happens. Who picks the one striking
verdict among twenty should measure that one again, with another seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bn_deploy.bench.intervals import paired, unpaired
from bn_deploy.bench.options import Scenario
from bn_deploy.bench.rows import LatencyResult, Run

INDIFFERENCE = 0.02
"""The floor: a difference smaller than this decides nothing."""


class Verdict(str, Enum):
    """What can be said about the second of two networks."""

    FASTER = "FASTER"
    SLOWER = "SLOWER"
    SAME = "SAME"
    UNDECIDED = "UNDECIDED"


@dataclass(frozen=True)
class Ratio:
    """The time of one network as a multiple of another's.

    Attributes:
        value: time after / time before; below 1, the second is faster.
        low, high: the 95 % interval; None if there are too few processes for one.
        processes: how many there were.
    """

    value: float
    low: float | None
    high: float | None
    processes: int

    def verdict(self, floor: float = INDIFFERENCE) -> Verdict | None:
        """What follows; None where there is no interval, for then nothing does.

        Args:
            floor: such as 0.02; it is taken to be as wide for slower as for faster, in logarithms.
        """
        if self.low is None or self.high is None:
            return None
        reach = math.log1p(floor)
        low, high = math.log(self.low), math.log(self.high)
        if high < -reach:
            return Verdict.FASTER
        if low > reach:
            return Verdict.SLOWER
        # Noise raises the bar for a difference, and must not lower it for calling two networks the same.
        near = math.log1p(min(floor, INDIFFERENCE))
        return Verdict.SAME if -near <= low and high <= near else Verdict.UNDECIDED


@dataclass(frozen=True)
class Comparison:
    """Two rows of one measurement, or a row of an earlier one and its counterpart now.

    Attributes:
        before, after: the names of the two.
        batch, scope: at which they were compared.
        ratio: the time of `after` as a multiple of that of `before`.
        floor: the floor of indifference that the verdict was read with.
    """

    before: str
    after: str
    batch: int
    scope: str
    ratio: Ratio
    floor: float

    @property
    def verdict(self) -> Verdict | None:
        """What can be said about `after`; None where there are too few processes."""
        return self.ratio.verdict(self.floor)


def between(before: LatencyResult, after: LatencyResult) -> Ratio:
    """Two rows of one measurement, process by process and round by round."""
    ratio = _ratio(log_ratios(before, after))
    # Requests that were given up are missing from the samples, so the ratio decides nothing.
    return replace(ratio, low=None, high=None) if before.unserved or after.unserved else ratio


def log_ratios(before: LatencyResult, after: LatencyResult) -> NDArray[np.float64]:
    """(processes,) the logarithm of time after / time before in each process that timed both."""
    theirs = {run.process: run for run in after.runs}
    both = [run for run in before.runs if run.process in theirs]
    return np.array([_log_ratio(run, theirs[run.process]) for run in both])


def _log_ratio(before: Run, after: Run) -> float:
    rounds = min(len(before.blocks), len(after.blocks))
    logs = np.log(after.block_medians_s[:rounds] / before.block_medians_s[:rounds])
    return float(np.median(logs))


def _ratio(logs: NDArray[np.float64]) -> Ratio:
    found = paired(logs)
    low, high = (None, None) if found is None else map(math.exp, found)
    return Ratio(math.exp(float(np.median(logs))), low, high, len(logs))


def since(before: LatencyResult, after: LatencyResult) -> Ratio:
    """A row and its counterpart of an earlier measurement: nothing pairs their processes."""
    old, new = (np.log(row.process_medians_s) for row in (before, after))
    found = unpaired(old, new)
    low, high = (None, None) if found is None else map(math.exp, found)
    estimate = math.exp(float(np.median(new) - np.median(old)))
    return Ratio(estimate, low, high, min(len(old), len(new)))


def noise(results: Sequence[LatencyResult]) -> list[Comparison]:
    """Each network that was timed against itself, at each batch size and scope, with the floor of 2 %."""
    return [
        Comparison(row.name, twin.name, row.batch, row.scope, between(row, twin), INDIFFERENCE)
        for row in results
        for twin in results
        if twin.again and not row.again and _key(twin) == _key(row)
    ]


def _key(row: LatencyResult) -> tuple[str, str, int, str]:
    return row.backend, row.model, row.batch, row.scope


def floor(results: Sequence[LatencyResult], batch: int, scope: str) -> float:
    """The floor of indifference at a batch size and scope: 2 %, or the noise where it was more."""
    seen = [abs(math.log(c.ratio.value)) for c in noise(results) if (c.batch, c.scope) == (batch, scope)]
    return max([INDIFFERENCE, *(math.expm1(one) for one in seen)])


def best_batches(results: Sequence[LatencyResult]) -> list[LatencyResult]:
    """Of each candidate, the row of the batch size with the highest throughput: the scenario "offline"."""
    best: dict[tuple[str, str], LatencyResult] = {}
    for row in results:
        key = (row.name, row.scope)
        if key not in best or row.throughput_per_s > best[key].throughput_per_s:
            best[key] = row
    return list(best.values())


def offline(before: LatencyResult, after: LatencyResult) -> Ratio:
    """The time that a row of input takes, each network at its own batch size, slow calls in full."""
    theirs = {run.process: run for run in after.runs}
    logs = [
        math.log((theirs[run.process].samples_s.mean() / after.batch) / (run.samples_s.mean() / before.batch))
        for run in before.runs
        if run.process in theirs
    ]
    return _ratio(np.array(logs))


def told(results: Sequence[LatencyResult], scenario: Scenario) -> list[Comparison]:
    """The comparisons that a measurement is made for; which pairs, `_pairs` says.

    Args:
        results: the rows, in the order in which they were measured.
        scenario: offline compares each network at its own best batch size, the others batch by batch.
    """
    found: list[Comparison] = []
    if scenario == "offline":
        for before, after in _pairs(best_batches(results)):
            reach = max(floor(results, row.batch, row.scope) for row in (before, after))
            ratio = offline(before, after)
            found.append(Comparison(before.name, after.name, after.batch, after.scope, ratio, reach))
        return found
    for batch, scope in dict.fromkeys((row.batch, row.scope) for row in results):
        reach = floor(results, batch, scope)
        for before, after in _pairs([r for r in results if (r.batch, r.scope) == (batch, scope)]):
            ratio = between(before, after)
            found.append(Comparison(before.name, after.name, batch, scope, ratio, reach))
    return found


def _pairs(rows: Sequence[LatencyResult]) -> list[tuple[LatencyResult, LatencyResult]]:
    """Within a backend, any two forms of the network, the earlier one first: what converting brought, what
    folding brought, what both did. Across backends, the last form of each with that of the first backend.
    """  # noqa: D205 - the list is the summary
    groups: dict[tuple[str, str], list[LatencyResult]] = {}
    for row in rows:
        if not row.again:
            groups.setdefault((row.backend, row.scope), []).append(row)
    found = [pair for own in groups.values() for pair in combinations(own, 2)]
    lasts = [own[-1] for own in groups.values()]
    return found + [(lasts[0], other) for other in lasts[1:] if other.scope == lasts[0].scope]
