"""What a worker process is told to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.fields import fields
from bn_deploy.bench.options import MeasureOptions


@dataclass(frozen=True)
class Job:
    """One process's share of a measurement.

    Attributes:
        candidates: what to open and to time.
        inputs: a .npz file with an array for each input, its rows on the first axis; they are repeated as
            often as a batch needs.
        options: how to measure.
        process: which process this is, from 0; with the seed, it draws every order.
        describe: ask each runner for the operators of its loaded graph, after everything was timed.
        probe: time nothing, but note the memory that the only candidate takes.
    """

    candidates: tuple[Candidate, ...]
    inputs: Path
    options: MeasureOptions
    process: int
    describe: bool = False
    probe: bool = False

    def to_json(self) -> dict[str, Any]:
        """The job as JSON values."""
        return {
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "inputs": str(self.inputs),
            "options": self.options.to_json(),
            "process": self.process,
            "describe": self.describe,
            "probe": self.probe,
        }

    @classmethod
    def from_json(cls, value: object) -> Job:
        """Reads what `to_json` wrote.

        Raises:
            InputError: it is something else.
        """
        row = fields(value, _FIELDS, "the job")
        return cls(
            **{
                **row,
                "candidates": tuple(
                    Candidate.from_json(one, f"candidate {place}")
                    for place, one in enumerate(row["candidates"])
                ),
                "inputs": Path(row["inputs"]),
                "options": MeasureOptions.from_json(row["options"]),
            }
        )


_FIELDS: dict[str, tuple[type, ...]] = {
    "candidates": (list,),
    "inputs": (str,),
    "options": (dict,),
    "process": (int,),
    "describe": (bool,),
    "probe": (bool,),
}
