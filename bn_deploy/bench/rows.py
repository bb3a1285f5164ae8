"""One row of results: the raw samples of one network in one runtime at one batch size, of every process."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bn_deploy.bench.candidate import named
from bn_deploy.bench.fields import NULL, elements, fields
from bn_deploy.bench.intervals import paired
from bn_deploy.bench.options import SCOPES, Scope
from bn_deploy.bench.stats import Quantile, block_medians, outliers, quantile
from bn_deploy.errors import InputError
from bn_deploy.spec import Precision


@dataclass(frozen=True)
class Run:
    """The calls of one row in one process.

    Attributes:
        process: which one, from 0.
        blocks: calls in each block; blocks with the same place were taken in the same round.
        samples_ns: nanoseconds of each timed call, block after block, in the order of the calls. The clock
            counts whole nanoseconds.
        warmup_calls: calls before the first timed one.
        warmup_ns: how long those took.
        unserved: requests that were due and never answered; only the scenario "server" leaves any.

    Raises:
        InputError: no sample, one that is no positive time, or blocks that are not those of the samples.
    """

    process: int
    blocks: tuple[int, ...]
    samples_ns: tuple[int, ...]
    warmup_calls: int
    warmup_ns: int
    unserved: int = 0

    def __post_init__(self) -> None:
        who = f"process {self.process}"
        if not self.samples_ns:
            raise InputError(f"{who}: a run needs at least one sample")
        if (least := min(self.samples_ns)) < 1:
            raise InputError(f"{who}: a sample of {least} ns is no positive time")
        if min(self.blocks, default=0) < 1 or sum(self.blocks) != len(self.samples_ns):
            raise InputError(
                f"{who}: {len(self.samples_ns)} samples are not in blocks of {list(self.blocks)}"
            )
        if min(self.process, self.warmup_calls, self.warmup_ns, self.unserved) < 0:
            raise InputError(f"{who}: a count below 0")

    @cached_property
    def samples_s(self) -> NDArray[np.float64]:
        """(n,) seconds of each call."""
        return np.array(self.samples_ns, np.float64) / 1e9

    @cached_property
    def block_medians_s(self) -> NDArray[np.float64]:
        """(blocks,) the median call of each block."""
        return block_medians(self.samples_s, self.blocks)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values."""
        return {
            "process": self.process,
            "warmup_calls": self.warmup_calls,
            "warmup_ns": self.warmup_ns,
            "unserved": self.unserved,
            "blocks": list(self.blocks),
            "samples_ns": list(self.samples_ns),
        }

    @classmethod
    def from_json(cls, value: object, what: str = "the run") -> Run:
        """Reads what `to_json` wrote; `what` names it in messages.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _RUN, what)
        lists = {name: elements(row[name], int, f"{what}: {name}") for name in ("blocks", "samples_ns")}
        try:
            return cls(**{**row, **lists})
        except InputError as error:
            raise InputError(f"{what}: {error}") from error


@dataclass(frozen=True)
class LatencyResult:
    """The calls of one candidate at one batch size and scope.

    Attributes:
        model: what was timed, such as "custom", "native" or "folded".
        backend: the row of BACKENDS that ran it.
        again: whether it is the second copy of a network that was timed against itself.
        requested: what was asked for: "threads", "spinning", "precision", "provider", "lean_runtime", null
            where it was left open; "cuda_graph" and "trust", false where it was not asked for.
        provider: the runtime's component that computed, as read back.
        device: where it computed, in words, as read back.
        precision: the number format it computed in, as read back.
        threads: CPU threads that computed, as read back; None where that means nothing.
        spinning: whether idle threads busy-waited; None where the runtime does not tell.
        cuda_graph: whether a call was one recorded graph; None where that means nothing.
        no_cuda_graph: why it was not, although that was asked for.
        tf32: whether products might be rounded to 10 bits of mantissa; None where that means nothing.
        batch: rows per call.
        scope: what was timed, one of SCOPES.
        census: how often each operator occurs in the graph as the runtime loaded it; None if it tells none.
        runs: the samples, process by process.

    Raises:
        InputError: no run, a process twice, or a field out of its range.
    """

    model: str
    backend: str
    again: bool
    requested: Mapping[str, Any]
    provider: str
    device: str
    precision: Precision
    threads: int | None
    spinning: bool | None
    cuda_graph: bool | None
    no_cuda_graph: str | None
    tf32: bool | None
    batch: int
    scope: Scope
    census: Mapping[str, int] | None
    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        who = f"{self.name}, batch {self.batch}"
        processes = [run.process for run in self.runs]
        if not processes or len(set(processes)) != len(processes):
            raise InputError(f"{who}: a latency result needs runs of different processes, not {processes}")
        if self.batch < 1:
            raise InputError(f"{who}: the batch size must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{who}: threads must be at least 1, not {self.threads}")
        if self.scope not in SCOPES:
            raise InputError(f"{who}: the scope must be one of {', '.join(SCOPES)}, not {self.scope!r}")

    @property
    def name(self) -> str:
        """Such as "ort folded"."""
        return named(self.backend, self.model, again=self.again)

    @cached_property
    def ascending_s(self) -> NDArray[np.float64]:
        """(n,) every sample of every process, sorted."""
        return np.sort(np.concatenate([run.samples_s for run in self.runs]))

    @property
    def unserved(self) -> int:
        """Requests that were never answered."""
        return sum(run.unserved for run in self.runs)

    def percentile(self, percentile: int) -> Quantile | None:
        """A percentile of all samples; None if they are too few, or if requests were never answered.

        Requests that were given up would have been the slowest: leaving them out would make an overloaded
        runner look fast.
        """
        return None if self.unserved else quantile(self.ascending_s, percentile)

    @property
    def p50_s(self) -> float | None:
        """The median; None if requests were never answered."""
        return None if (found := self.percentile(50)) is None else found.value_s

    @property
    def outliers(self) -> int:
        """How many samples are far out; they are in every figure."""
        return outliers(self.ascending_s)

    @property
    def process_medians_s(self) -> tuple[float, ...]:
        """The median call of each process."""
        return tuple(float(np.median(run.samples_s)) for run in self.runs)

    @property
    def process_interval_s(self) -> tuple[float, float] | None:
        """The 95 % interval of the median call over processes; None with too few of them.

        The intervals of `percentile` take all calls for independent, which those of one process are not: what
        a process does differently from the next is in this one only.
        """
        found = None if self.unserved else paired(np.log(self.process_medians_s))
        return None if found is None else (math.exp(found[0]), math.exp(found[1]))

    @property
    def throughput_per_s(self) -> float:
        """Rows per second of one caller who waits for each answer, over all the time that the calls took.

        The median over processes of rows divided by the sum of the calls: slow calls count in full.
        """
        return self.batch / float(np.median([run.samples_s.mean() for run in self.runs]))

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values: raw samples, no derived figure."""
        own = {name: getattr(self, name) for name in _RESULT if name not in ("runs", "census", "requested")}
        return {
            **own,
            "precision": self.precision.value,
            "requested": dict(self.requested),
            "census": None if self.census is None else dict(self.census),
            "runs": [run.to_json() for run in self.runs],
        }

    @classmethod
    def from_json(cls, value: object, what: str = "the result") -> LatencyResult:
        """Reads what `to_json` wrote; `what` names the row in messages.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _RESULT, what)
        runs = tuple(Run.from_json(run, f"{what}: run {place}") for place, run in enumerate(row["runs"]))
        try:
            precision = Precision(row["precision"])
        except ValueError as error:
            raise InputError(f"{what}: there is no precision {row['precision']!r}") from error
        try:
            return cls(**{**row, "precision": precision, "runs": runs})
        except InputError as error:
            raise InputError(f"{what}: {error}") from error


_RUN: dict[str, tuple[type, ...]] = {
    "process": (int,),
    "warmup_calls": (int,),
    "warmup_ns": (int,),
    "unserved": (int,),
    "blocks": (list,),
    "samples_ns": (list,),
}
_RESULT: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "backend": (str,),
    "again": (bool,),
    "requested": (dict,),
    "provider": (str,),
    "device": (str,),
    "precision": (str,),
    "threads": (int, NULL),
    "spinning": (bool, NULL),
    "cuda_graph": (bool, NULL),
    "no_cuda_graph": (str, NULL),
    "tf32": (bool, NULL),
    "batch": (int,),
    "scope": (str,),
    "census": (dict, NULL),
    "runs": (list,),
}
