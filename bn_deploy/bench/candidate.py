"""What is timed, as a specification that another process can open.

Every measurement is taken in fresh processes, so a candidate is not an open runner but what it takes to make
one: JSON values and names of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from bn_deploy.backends.options import AS_IT_IS, RunOptions
from bn_deploy.bench.fields import NULL, fields
from bn_deploy.errors import InputError

KINDS: tuple[str, ...] = ("onnx", "plan", "checkpoint", "work")
"""What a source may be: an ONNX file, an engine, a form of a checkpoint's network, counted work."""


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    Attributes:
        kind: one of KINDS.
        path: the file, absolute; "" for counted work.
        form: of a checkpoint, the form of its network; of counted work, how many units; else "".

    Raises:
        InputError: there is no such kind.
    """

    kind: str
    path: str
    form: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"there is no source of the kind {self.kind!r}; there are {', '.join(KINDS)}")


@dataclass(frozen=True)
class Candidate:
    """One network in one runtime.

    Attributes:
        label: which form of the network it is, such as "folded".
        backend: the row of BACKENDS that runs it.
        source: what the backend opens.
        threads: CPU threads to ask for; None where that means nothing.
        spinning: whether idle threads are to busy-wait; None leaves it to the backend.
        precision: the number format that it must compute in; None is whatever the source asks for.
        provider: the runtime's component that must compute; None is whichever does.
        running: what else is asked of the backend.
        again: whether it is the second copy of a network that is timed against itself.
    """

    label: str
    backend: str
    source: Source
    threads: int | None
    spinning: bool | None = None
    precision: str | None = None
    provider: str | None = None
    running: RunOptions = AS_IT_IS
    again: bool = False

    @property
    def name(self) -> str:
        """Such as "ort folded", the same in every table."""
        return named(self.backend, self.label, again=self.again)

    def twin(self) -> Candidate:
        """The same once more."""
        return replace(self, again=True)

    @property
    def requested(self) -> dict[str, Any]:
        """What was asked for, where something was."""
        own = {name: getattr(self, name) for name in ("threads", "spinning", "precision", "provider")}
        return {**own, **self.running.to_json()}

    def to_json(self) -> dict[str, Any]:
        """The candidate as JSON values."""
        return {
            "label": self.label,
            "backend": self.backend,
            "source": {"kind": self.source.kind, "path": self.source.path, "form": self.source.form},
            **self.requested,
            "again": self.again,
        }

    @classmethod
    def from_json(cls, value: object, what: str = "the candidate") -> Candidate:
        """Reads what `to_json` wrote; `what` names it in messages.

        Raises:
            InputError: it is something else.
        """
        row = dict(fields(value, _FIELDS, what))
        source = fields(row["source"], _SOURCE, f"{what}: source")
        running = RunOptions.from_json({name: row.pop(name) for name in AS_IT_IS.to_json()})
        return cls(**{**row, "source": Source(**source), "running": running})


def named(backend: str, label: str, *, again: bool) -> str:
    """The name of a candidate in tables and messages."""
    return f"{backend} {label}{' again' if again else ''}"


_SOURCE: Mapping[str, tuple[type, ...]] = {"kind": (str,), "path": (str,), "form": (str,)}
_FIELDS: Mapping[str, tuple[type, ...]] = {
    "label": (str,),
    "backend": (str,),
    "source": (dict,),
    "threads": (int, NULL),
    "spinning": (bool, NULL),
    "precision": (str, NULL),
    "provider": (str, NULL),
    "cuda_graph": (bool,),
    "trust": (bool,),
    "lean_runtime": (str, NULL),
    "again": (bool,),
}
