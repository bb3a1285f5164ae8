"""What is in a file, as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bn_deploy.report.layout import table, wrapped

_LONGEST = 60  # characters of a name or a kernel's name in a table


def inspection_text(facts: Mapping[str, Any]) -> str:
    """A table of the parts under what is told of the whole; from Inspection.to_json."""
    lines = [
        wrapped(f"{facts['kind']} {facts['file']}: {facts['size_bytes']:,} bytes, sha256 {facts['sha256']}"),
        *(f"{way[:-1]} {_spec(spec)}" for way in ("inputs", "outputs") for spec in facts[way]),
        *(_line(name, value) for name, value in facts["totals"].items()),
        *(wrapped(f"{name}: {_value(value)}") for name, value in facts["origin"].items()),
    ]
    if facts["rows"]:
        columns = [name for name in facts["rows"][0] if any(row[name] for row in facts["rows"])]
        numbers = [name for name in columns if isinstance(_first(facts["rows"], name), int)]
        columns = [*(name for name in columns if name not in numbers), *numbers]
        rows = [[_cell(row[name]) for name in columns] for row in facts["rows"]]
        lines += ["", table(columns, rows, left=len(columns) - len(numbers))]
    return "\n".join([*lines, *map(wrapped, facts["notes"])])


def _line(name: str, value: Any) -> str:
    # The reasons are for scripts and for the side-car; a person wants to know which knobs are missing.
    told = list(value) if name == "not_available" else value
    return wrapped(f"{name.replace('_', ' ')}: {_value(told)}")


def _first(rows: Sequence[Mapping[str, Any]], name: str) -> Any:
    return next((row[name] for row in rows if row[name] is not None), None)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) else "" if value is None else _value(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(part)}" for name, part in value.items()) or "none"
    if isinstance(value, list | tuple):
        sizes = all(isinstance(part, int) for part in value)
        return (" x " if sizes else ", ").join(_value(part) for part in value) or "none"
    return f"{value:,}" if type(value) is int else "none" if value is None else str(value)


def _spec(spec: Mapping[str, Any]) -> str:
    sizes = " x ".join("N" if size is None else str(size) for size in spec["shape"])
    return f"{spec['name']} {spec['dtype']} ({sizes})"
