"""How long and on what to measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from bn_deploy.bench.fields import NULL, elements, fields
from bn_deploy.errors import InputError

Scope = Literal["compute", "end_to_end", "h2d", "d2h"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

Regime = Literal["warm", "cold"]
REGIMES: tuple[Regime, ...] = get_args(Regime)

Scenario = Literal["single", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)

SWEEP: tuple[int, ...] = tuple(1 << power for power in range(11))
"""The batch sizes of a sweep, 1 to 1024."""

PROCESSES = 9
"""Fresh processes of a measurement: with nine, one may fare badly (see `intervals`)."""


@dataclass(frozen=True)
class MeasureOptions:
    """How long and on what to measure; a *cell* is a batch size with a scope, in which candidates take turns.

    Attributes:
        batch_sizes: rows per call.
        scopes: what is timed, one row of results each: "compute" is enqueue and synchronize, "end_to_end" is
            load, enqueue, synchronize and fetch, "h2d" load alone, "d2h" fetch alone.
        regime: "warm", the same inputs again and again; "cold", other inputs at each call, with the caches
            emptied before it.
        scenario: "single", one call after the other; "server", calls that arrive at random; "offline", the
            throughput at the best batch size.
        rate_per_s: calls that arrive in a second, in the scenario "server"; else None.
        processes: fresh processes, one after the other: the replications of the measurement.
        budget_s: time for the whole measurement, starting processes included. Each process gets an equal part
            of what is left, and takes at least MIN_ROUNDS turns however long they last.
        rounds: turns after which a process leaves a cell, even if there is time.
        warmup_s: least time of calls before the first timed one, for each candidate in each cell.
        seed: of every order that is drawn.
        quick: whether it was asked to be quick rather than to decide anything.

    Raises:
        InputError: a value is out of its range.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 64, 256)
    scopes: tuple[Scope, ...] = ("end_to_end",)
    regime: Regime = "warm"
    scenario: Scenario = "single"
    rate_per_s: float | None = None
    processes: int = PROCESSES
    budget_s: float = 70.0
    rounds: int = 40
    warmup_s: float = 0.02
    seed: int = 0
    quick: bool = False

    def __post_init__(self) -> None:
        for name, values in (("batch sizes", self.batch_sizes), ("scopes", self.scopes)):
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name} must be given, each once, not {list(values)}")
        if min(self.batch_sizes) < 1:
            raise InputError(f"batch sizes must be at least 1, not {min(self.batch_sizes)}")
        for name, given, known in (
            ("scope", set(self.scopes), SCOPES),
            ("regime", {self.regime}, REGIMES),
            ("scenario", {self.scenario}, SCENARIOS),
        ):
            if unknown := given - set(known):
                raise InputError(f"a {name} is one of {', '.join(known)}, not {', '.join(sorted(unknown))}")
        if (self.scenario == "server") != (self.rate_per_s is not None):
            raise InputError("the scenario server, and no other, needs a rate of calls in a second")
        if self.rate_per_s is not None and not (math.isfinite(self.rate_per_s) and self.rate_per_s > 0):
            raise InputError(f"the rate must be more than 0 calls in a second, not {self.rate_per_s}")
        if self.processes < 1 or self.rounds < 1:
            raise InputError(f"{self.processes} processes of {self.rounds} rounds measure nothing")
        if not (math.isfinite(self.warmup_s) and self.warmup_s >= 0):
            raise InputError(f"the warm-up must be 0 s or more, not {self.warmup_s}")
        if not (math.isfinite(self.budget_s) and self.budget_s > 0):
            raise InputError(f"the time budget must be more than 0 s, not {self.budget_s}")
        if self.seed < 0:
            raise InputError(f"the seed must be 0 or more, not {self.seed}")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values."""
        return {
            "batch_sizes": list(self.batch_sizes),
            "scopes": list(self.scopes),
            "regime": self.regime,
            "scenario": self.scenario,
            "rate_per_s": None if self.rate_per_s is None else float(self.rate_per_s),
            "processes": self.processes,
            "budget_s": float(self.budget_s),
            "rounds": self.rounds,
            "warmup_s": float(self.warmup_s),
            "seed": self.seed,
            "quick": self.quick,
        }

    @classmethod
    def from_json(cls, value: object, what: str = "options") -> MeasureOptions:
        """Reads what `to_json` wrote; `what` names it in messages.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _FIELDS, what)
        row = {
            **row,
            "batch_sizes": elements(row["batch_sizes"], int, f"{what}: batch_sizes"),
            "scopes": elements(row["scopes"], str, f"{what}: scopes"),
        }
        return cls(**row)


QUICK = MeasureOptions(batch_sizes=(1, 8, 64), processes=1, budget_s=6.0, rounds=15, quick=True)
"""A look that takes a few seconds and decides nothing."""

_FIELDS: Mapping[str, tuple[type, ...]] = {
    "batch_sizes": (list,),
    "scopes": (list,),
    "regime": (str,),
    "scenario": (str,),
    "rate_per_s": (float, NULL),
    "processes": (int,),
    "budget_s": (float,),
    "rounds": (int,),
    "warmup_s": (float,),
    "seed": (int,),
    "quick": (bool,),
}
