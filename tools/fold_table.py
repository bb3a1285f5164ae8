"""The table of tools/fold_survey.py, from what it wrote down: for its own screen and for README.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "fold_survey.json"

HALF_THE_DIGITS = 2.0**-11.5
"""The root of float32's epsilon. A relative error above it is no rounding: of seven digits these networks
lose less than half, while a wrong fold is wrong in the first."""


def table(survey: Mapping[str, Any]) -> str:
    """A table for each flavour of batch norm, in Markdown, and below it what did not go well."""
    architectures = survey["architectures"]
    foldable = sum(row["foldable"] for row in architectures.values())
    parts = []
    for flavour, tools in survey["flavours"].items():
        header = ["batch norms left", *architectures, "folded", "largest error"]
        rows = [
            ["*in the network*", *(str(row["batchnorms"]) for row in architectures.values()), "", ""],
            ["*cannot be folded*", *(str(_stay(row)) for row in architectures.values()), "", ""],
            *([tool, *_row(cells, architectures, foldable)] for tool, cells in tools.items()),
        ]
        parts.append("\n\n".join([f"**{flavour}**", _markdown([header, *rows]), *_crashes(tools)]))
    return "\n\n".join([*parts, _environment(survey)])


def _stay(row: Mapping[str, int]) -> int:
    return row["batchnorms"] - row["foldable"]


def _crashes(tools: Mapping[str, Any]) -> list[str]:
    """A line for each tool and each reason for which it crashed."""
    found: dict[tuple[str, str], list[str]] = {}
    for tool, cells in tools.items():
        for name, cell in cells.items() if isinstance(cells, dict) else ():
            if "crashed" in cell:
                found.setdefault((tool, cell["crashed"]), []).append(name)
    return [f"{tool} crashed on {', '.join(names)}: {text}" for (tool, text), names in found.items()]


def _row(cells: Any, architectures: Mapping[str, Any], foldable: int) -> list[str]:
    """What a tool left of each architecture, how many it folded in all, and its largest error."""
    if isinstance(cells, str):
        return [cells, *[""] * (len(architectures) + 1)]
    words, folded, errors = [], 0, []
    for name, row in architectures.items():
        cell = cells[name]
        if "crashed" in cell:
            words.append("crashed")
            continue
        errors.append(cell["error"])
        right = cell["error"] <= HALF_THE_DIGITS
        words.append(f"{cell['left']}{'' if right else ' **wrong**'}")
        # What is wrong is not folded.
        folded += row["batchnorms"] - cell["left"] if right else 0
    return [*words, f"{folded} of {foldable}", f"{max(errors):.1e}" if errors else ""]


def _markdown(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = [("-" * width)[:-1] + ":" if index else "-" * width for index, width in enumerate(widths)]
    lines = []
    for row in (rows[0], rule, *rows[1:]):
        padded = [
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _environment(survey: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in survey["versions"].items())
    return f"{survey['date']}, {versions}."
