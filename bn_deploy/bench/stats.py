"""One row of results: the raw samples of one network in one runtime at one batch size.

Samples are never averaged, trimmed or dropped; every figure is derived from them when it is asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

from bn_deploy.bench.fields import NULL, elements, fields
from bn_deploy.errors import InputError
from bn_deploy.spec import Precision

Scope = Literal["compute", "end_to_end"]
SCOPES: tuple[Scope, ...] = get_args(Scope)


@cache
def required_samples(percentile: int, confidence: int = 99, over_latency: int = 1) -> int:
    """The smallest sample that supports a statement about a percentile of independent calls.

    Of n calls, `over_latency` took longer than some bound. If that few would be unlikely with the true
    percentile above the bound, then the bound holds:

        P(Binomial(n, 1 - percentile) <= over_latency) <= 1 - confidence

    Source: MLPerf inference rules, appendix on early stopping, tolerance 0. Their estimate needs one
    over-latency call, because the slowest call is itself the bound: 64 samples for the 90th percentile and
    662 for the 99th. With none it would be 44 and 459.

    Args:
        percentile: in per cent, 1 to 99.
        confidence: in per cent, 1 to 99.
        over_latency: calls that are allowed above the bound.

    Raises:
        ValueError: an argument is out of range.
    """
    if not (1 <= percentile <= 99 and 1 <= confidence <= 99 and over_latency >= 0):
        raise ValueError(f"no such statement: p{percentile} at {confidence} %, {over_latency} above")
    below, above = percentile, 100 - percentile
    n = over_latency + 1
    # Both sides times 100 ** (n + 1): integers, so that no rounding moves the answer by one.
    while (
        100 * sum(math.comb(n, k) * above**k * below ** (n - k) for k in range(over_latency + 1))
        > (100 - confidence) * 100**n
    ):
        n += 1
    return n


@dataclass(frozen=True)
class LatencyResult:
    """The calls of one candidate at one batch size, in seconds.

    Percentiles are by nearest rank (Hyndman and Fan's type 1): the smallest sample that at least so many
    per cent of the samples do not exceed. Each is a time that was measured, none is interpolated.

    Attributes:
        model: what was timed, such as "custom", "native" or "folded".
        backend: the row of BACKENDS that ran it.
        provider: the runtime's component that computed, as read back.
        device: where it computed, in words, as read back.
        precision: the number format it computed in, as read back.
        threads: threads it was given; None where that means nothing.
        batch: rows per call.
        scope: "compute" (enqueue, synchronize) or "end_to_end" (load, enqueue, synchronize, fetch).
        samples_s: seconds of each timed call, in the order of the calls.
        warmup_calls: calls made before the first timed one.
        warmup_s: seconds that those took.

    Raises:
        InputError: no sample, a sample that is no positive time, or a field out of its range.
    """

    model: str
    backend: str
    provider: str
    device: str
    precision: Precision
    threads: int | None
    batch: int
    scope: Scope
    samples_s: tuple[float, ...]
    warmup_calls: int
    warmup_s: float

    def __post_init__(self) -> None:
        who = f"{self.model} on {self.backend}, batch {self.batch}"
        if not self.samples_s:
            raise InputError(f"{who}: a latency result needs at least one sample")
        for position, sample in enumerate(self.samples_s):
            if not (math.isfinite(sample) and sample > 0):
                raise InputError(f"{who}: sample {position} is {sample} s, which is no positive time")
        if self.batch < 1:
            raise InputError(f"{who}: the batch size must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"{who}: threads must be at least 1, not {self.threads}")
        if self.scope not in SCOPES:
            raise InputError(f"{who}: the scope must be one of {', '.join(SCOPES)}, not {self.scope!r}")
        if self.warmup_calls < 0 or not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise InputError(f"{who}: {self.warmup_calls} calls in {self.warmup_s} s are no warm-up")

    @property
    def p50_s(self) -> float:
        """The median."""
        return self._nearest_rank_s(50)

    @property
    def p90_s(self) -> float | None:
        """The 90th percentile; None with fewer than `required_samples(90)` samples."""
        return self._supported_s(90)

    @property
    def p99_s(self) -> float | None:
        """The 99th percentile; None with fewer than `required_samples(99)` samples."""
        return self._supported_s(99)

    @property
    def mean_s(self) -> float:
        """The arithmetic mean; a few slow calls move it, so p50 is the figure to compare."""
        return math.fsum(self.samples_s) / len(self.samples_s)

    @property
    def minimum_s(self) -> float:
        """The fastest call."""
        return min(self.samples_s)

    @property
    def throughput_per_s(self) -> float:
        """Rows per second of one caller that waits for each answer: batch / p50.

        It follows from the latency; it is not the rate of a runtime that is kept busy by several callers.
        """
        return self.batch / self.p50_s

    def _supported_s(self, percentile: int) -> float | None:
        if len(self.samples_s) < required_samples(percentile):
            return None
        return self._nearest_rank_s(percentile)

    def _nearest_rank_s(self, percentile: int) -> float:
        rank = -(-len(self.samples_s) * percentile // 100)  # rounded up, in integers
        return sorted(self.samples_s)[rank - 1]

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values, seconds throughout: raw samples, no derived figure."""
        return {
            "model": self.model,
            "backend": self.backend,
            "provider": self.provider,
            "device": self.device,
            "precision": self.precision.value,
            "threads": self.threads,
            "batch": self.batch,
            "scope": self.scope,
            "warmup_calls": self.warmup_calls,
            "warmup_s": float(self.warmup_s),
            "samples_s": [float(sample) for sample in self.samples_s],
        }

    @classmethod
    def from_json(cls, value: object, what: str = "the result") -> LatencyResult:
        """Reads what `to_json` wrote; `what` names the row in messages.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _KINDS, what)
        samples = elements(row["samples_s"], float, f"{what}: samples_s")
        try:
            precision = Precision(row["precision"])
        except ValueError as error:
            raise InputError(f"{what}: there is no precision {row['precision']!r}") from error
        try:
            return cls(**{**row, "precision": precision, "samples_s": samples})
        except InputError as error:
            raise InputError(f"{what}: {error}") from error


_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "backend": (str,),
    "provider": (str,),
    "device": (str,),
    "precision": (str,),
    "threads": (int, NULL),
    "batch": (int,),
    "scope": (str,),
    "warmup_calls": (int,),
    "warmup_s": (float,),
    "samples_s": (list,),
}
