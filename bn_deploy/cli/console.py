"""Printing. Results go to stdout; progress and notices go to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from bn_deploy.spec import T


def show(text: str, value: dict[str, Any], *, as_json: bool) -> None:
    """Prints a result: `text` for people, `value` for scripts."""
    print(json.dumps(value, indent=2, allow_nan=False) if as_json else text)


def notice(text: str) -> None:
    """Prints a sentence that must not be missed, if there is one."""
    if text and sys.stderr is not None:
        print(f"!! {text}", file=sys.stderr, flush=True)


def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """The Track that draws a progress bar on stderr; quiet where that is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # it is None where a caller has closed it
        return iter(items)
    return _bar(items, description, total)


def _bar(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import track as rich_track

    return iter(rich_track(items, f"{description:<24}", total, console=Console(stderr=True), transient=True))
