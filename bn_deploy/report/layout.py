"""How text is laid out: aligned tables, wrapped sentences, times with their unit."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table

WIDTH = 100
"""Columns that a sentence may take. A table takes what its cells need: none of them is ever cut."""


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Aligned columns under a rule; the first `left` columns are flush left, the rest, numbers, right."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        grid.add_column(column, justify="left" if index < left else "right", no_wrap=True)
    for row in rows:
        grid.add_row(*row)
    stream = io.StringIO()
    Console(file=stream, width=500, color_system=None).print(grid, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())


def wrapped(text: str) -> str:
    """`text` in lines of at most WIDTH columns, all but the first indented; no word is broken."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def milliseconds(seconds: float | None) -> str:
    """A time in ms with three significant digits; "n/a" for a percentile that the samples do not support."""
    if seconds is None:
        return "n/a"
    value = seconds * 1e3
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 thread" and "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
