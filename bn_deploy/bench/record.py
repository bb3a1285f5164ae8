"""latency.json: what was measured, where, how, and on which files.

Raw samples and no derived figure: those are computed again by whoever reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bn_deploy.artifact import read_json, write_bytes
from bn_deploy.bench.fields import NULL, fields
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.bench.replicate import Memory
from bn_deploy.bench.rows import LatencyResult
from bn_deploy.errors import InputError

FORMAT = "bn-deploy-latency/3"

_KINDS: dict[str, tuple[type, ...]] = {
    "format": (str,),
    "environment": (dict,),
    "conditions": (dict,),
    "options": (dict,),
    "artifacts": (dict,),
    "parity": (dict,),
    "dataset": (str,),
    "overhead_s": (float,),
    "interrupted": (bool,),
    "memory": (list,),
    "choices": (dict,),
    "results": (list,),
}
_MEMORY: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "open_bytes": (int, NULL),
    "run_bytes": (int, NULL),
    "peak_bytes": (int, NULL),
    "gpu_bytes": (int, NULL),
}
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class LatencyRecord:
    """One measurement with everything that it depends on.

    Attributes:
        environment: what `environment()` said before.
        options: how it was measured.
        artifacts: SHA-256 of each file that was timed, by kind or name.
        dataset: name of the data whose rows were fed.
        results: the rows.
        parity: what vouches for each candidate computing the same as the others, by name; "unverified" for
            one that nothing vouches for.
        overhead_s: what timing itself adds to each sample.
        conditions: how the machine was meanwhile, as `conditions.Watch.summary` has it.
        memory: what each runtime takes.
        choices: the thread counts that a calibration chose, by backend, as `threads.Choice.to_json` has them.
        interrupted: whether the user stopped it early.

    Raises:
        InputError: no row, no versions in the environment, or a digest that is none.
    """

    environment: Mapping[str, Any]
    options: MeasureOptions
    artifacts: Mapping[str, str]
    dataset: str
    results: tuple[LatencyResult, ...]
    parity: Mapping[str, str] = field(default_factory=dict)
    overhead_s: float = 0.0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    memory: tuple[Memory, ...] = ()
    choices: Mapping[str, Any] = field(default_factory=dict)
    interrupted: bool = False

    def __post_init__(self) -> None:
        if not self.results:
            raise InputError("a latency record needs at least one result")
        if not isinstance(self.environment.get("versions"), Mapping):
            raise InputError("the environment of a latency record needs versions: they decide what compares")
        for kind, digest in self.artifacts.items():
            if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
                raise InputError(f"artifact {kind}: {digest!r} is no SHA-256 digest")

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {
            "format": FORMAT,
            "environment": dict(self.environment),
            "conditions": dict(self.conditions),
            "options": self.options.to_json(),
            "artifacts": dict(self.artifacts),
            "parity": dict(self.parity),
            "dataset": self.dataset,
            "overhead_s": float(self.overhead_s),
            "interrupted": self.interrupted,
            "memory": [asdict(row) for row in self.memory],
            "choices": dict(self.choices),
            "results": [result.to_json() for result in self.results],
        }

    @classmethod
    def from_json(cls, value: object) -> LatencyRecord:
        """Reads what `to_json` wrote.

        Raises:
            InputError: it is something else, or of a format that this version does not know.
        """
        # Before the fields: another format may well have others.
        if isinstance(value, dict) and value.get("format", FORMAT) != FORMAT:
            raise InputError(
                f"the latency record has the format {value['format']!r}; expected {FORMAT!r}; "
                "run `bn-deploy bench` again"
            )
        row = dict(fields(value, _KINDS, "the latency record"))
        del row["format"]
        memory = [fields(one, _MEMORY, f"memory {place}") for place, one in enumerate(row["memory"])]
        results = [
            LatencyResult.from_json(result, f"result {position}")
            for position, result in enumerate(row["results"])
        ]
        return cls(
            **{
                **row,
                "options": MeasureOptions.from_json(row["options"]),
                "memory": tuple(Memory(**one) for one in memory),
                "results": tuple(results),
            }
        )

    def write(self, path: Path) -> None:
        """Writes the record, without indentation: thousands of samples, one a line, are no easier to read.

        Raises:
            InputError: the file cannot be written.
        """
        text = json.dumps(self.to_json(), allow_nan=False, separators=(",", ":"))
        write_bytes(path, (text + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> LatencyRecord:
        """Reads what `write` wrote.

        Raises:
            InputError: the file cannot be read, or is no latency record; the message names it.
        """
        value = read_json(path)
        try:
            return cls.from_json(value)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
