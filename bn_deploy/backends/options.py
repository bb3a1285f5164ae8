"""What may be chosen about how an engine is run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any


def flag(name: str) -> str:
    """What a user types for a field of RunOptions, such as "--cuda-graph"."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class RunOptions:
    """What may be chosen about how an engine is run. Which backend takes what, `Backend.takes` says.

    Attributes:
        cuda_graph: launch the kernels of a call as one recorded graph, where the runtime can.
        trust: let a plan bring code for the host.
        lean_runtime: the library that runs a plan that was built without its own.
    """

    cuda_graph: bool = False
    trust: bool = False
    lean_runtime: Path | None = None

    def asked(self) -> dict[str, Any]:
        """What was asked for, by name."""
        return {one.name: value for one in fields(self) if (value := getattr(self, one.name))}

    def only(self, names: Collection[str]) -> RunOptions:
        """What was asked for, as far as it is among `names`."""
        return RunOptions(**{name: value for name, value in self.asked().items() if name in names})

    def to_json(self) -> dict[str, Any]:
        """The options as JSON values; the library by its absolute path."""
        library = None if self.lean_runtime is None else str(self.lean_runtime.absolute())
        return {"cuda_graph": self.cuda_graph, "trust": self.trust, "lean_runtime": library}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RunOptions:
        """Reads what `to_json` wrote."""
        library = value["lean_runtime"]
        return cls(value["cuda_graph"], value["trust"], None if library is None else Path(library))


AS_IT_IS = RunOptions()
"""Nothing was asked for."""
