"""A regression gate: a measurement against an earlier one of the same networks.

Nothing pairs the processes of two days, so the interval is that of the rank sum over processes, and what a
machine does differently from one day to the next is in the ratio. Where it matters, measure both files in one
run: `bn-deploy bench OLD.onnx NEW.onnx`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bn_deploy.bench.environment import differences
from bn_deploy.bench.record import LatencyRecord
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.bench.verdict import INDIFFERENCE, Ratio, Verdict, floor, since
from bn_deploy.errors import InputError


@dataclass(frozen=True)
class Row:
    """One row now and then.

    Attributes:
        name: the candidate's.
        batch: rows per call.
        ratio: the time now as a multiple of the time then.
        allowed: the slow-down that passes: what was asked for, or the noise of either run if that was more.
    """

    name: str
    batch: int
    ratio: Ratio
    allowed: float

    @property
    def verdict(self) -> Verdict | None:
        """SLOWER if it is surely slower than allowed, UNDECIDED if it may be; None with too few processes.

        SAME and FASTER both pass; it is FASTER if the interval lies below 1 by more than the floor of 2 %.
        """
        if self.ratio.low is None or self.ratio.high is None:
            return None
        if self.ratio.low > 1 + self.allowed:
            return Verdict.SLOWER
        if self.ratio.high > 1 + self.allowed:
            return Verdict.UNDECIDED
        return Verdict.FASTER if self.ratio.high < 1 / (1 + INDIFFERENCE) else Verdict.SAME


@dataclass(frozen=True)
class Gate:
    """A measurement against an earlier one.

    Attributes:
        rows: what both have.
        missing: names and batch sizes that only the earlier one has.
        differences: in what the environments differ; the user wanted the comparison all the same.
    """

    rows: tuple[Row, ...]
    missing: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """1 if anything is SLOWER; else 4 if anything is not decided or is not there any more; else 0."""
        verdicts = [row.verdict for row in self.rows]
        if Verdict.SLOWER in verdicts:
            return 1
        return 4 if self.missing or {None, Verdict.UNDECIDED} & set(verdicts) else 0

    def to_json(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        return {
            "rows": [
                {
                    "name": row.name,
                    "batch": row.batch,
                    "verdict": row.verdict.value if row.verdict else None,
                    "time_ratio": row.ratio.value,
                    "time_ratio_interval": None if row.ratio.low is None else [row.ratio.low, row.ratio.high],
                    "allowed": row.allowed,
                }
                for row in self.rows
            ],
            "missing": list(self.missing),
            "differences": list(self.differences),
        }


def against(
    before: LatencyRecord, after: LatencyRecord, max_slowdown: float, *, anyway: bool = False
) -> Gate:
    """Compares each row with its counterpart of an earlier measurement.

    Args:
        before: the earlier one.
        after: the one that is judged.
        max_slowdown: how much slower a row may have become, such as 0.03.
        anyway: compare even what was measured under unlike circumstances.

    Raises:
        InputError: the environments or the ways of measuring differ, or the two have no row in common.
    """
    unlike = [
        *differences(before.environment, after.environment),
        *_options(before, after),
        *_graphs(before, after),
    ]
    if unlike and not anyway:
        raise InputError(
            f"the two measurements are not comparable: {'; '.join(unlike)} (--anyway compares them)"
        )
    now = {_key(row): row for row in after.results if not row.again}
    rows, missing = [], []
    for row in before.results:
        if row.again:
            continue
        if (counterpart := now.get(_key(row))) is None:
            missing.append(f"{row.name}, batch {row.batch}")
            continue
        reach = [floor(r.results, row.batch, row.scope) for r in (before, after)]
        noisy = [one for one in reach if one > INDIFFERENCE]
        ratio = since(row, counterpart)
        rows.append(Row(row.name, row.batch, ratio, max([max_slowdown, *noisy])))
    if not rows:
        raise InputError("the two measurements have no row in common")
    return Gate(tuple(rows), tuple(missing), tuple(unlike))


def _key(row: LatencyResult) -> tuple[str, int, str]:
    return row.name, row.batch, row.scope


def _options(before: LatencyRecord, after: LatencyRecord) -> list[str]:
    """In what the two were measured differently; how long and in which order does not matter."""
    return [
        f"{name}: {ours} / {theirs}"
        for name in ("scopes", "regime", "scenario", "rate_per_s")
        if (ours := getattr(before.options, name)) != (theirs := getattr(after.options, name))
    ]


def _graphs(before: LatencyRecord, after: LatencyRecord) -> list[str]:
    """Which rows were one recorded graph a call in one of the two only."""
    then = {_key(row): bool(row.cuda_graph) for row in before.results if not row.again}
    now = {_key(row): bool(row.cuda_graph) for row in after.results if not row.again}
    words = {True: "a CUDA graph", False: "no CUDA graph"}
    return [
        f"{key[0]}, batch {key[1]}: {words[then[key]]} / {words[now[key]]}"
        for key in then
        if key in now and then[key] != now[key]
    ]
