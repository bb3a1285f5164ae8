"""Fills the generated parts of README.md: tables of commands and of folding, one real screen of output.

    python tools/readme.py            writes them
    python tools/readme.py --check    exits 1 if they are stale

The commands come from the command line itself, the screen from the report that tools/make_reference.py left
in models/lenet-bn, the table of folding from what tools/fold_survey.py found, the evidence on measuring from
tools/results: the README holds no figure that a tool did not produce.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

import fold_table
from bn_deploy.artifact import read_json
from bn_deploy.cli import COMMANDS, group

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"


def commands() -> str:
    """A row for each command: what it does, and its options."""
    rows = ["| command | what it does | options |", "| --- | --- | --- |"]
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None, name  # noqa: S101 - the table of commands lists it
        what = (command.help or "").split("\n\n")[0].replace("\n", " ")
        options = ", ".join(f"`{o.opts[0]}`" for o in command.params if isinstance(o, click.Option))
        rows.append(f"| `bn-deploy {name}` | {what} | {options} |")
    return "\n".join(rows)


def screen() -> str:
    """The report of the reference run."""
    return f"```text\n{(ROOT / 'models/lenet-bn/report.txt').read_text(encoding='utf-8').rstrip()}\n```"


def survey() -> str:
    """What each tool folds."""
    return fold_table.table(read_json(fold_table.FILE))


def evidence() -> str:
    """What the two tools printed that put `bn-deploy bench` itself to the test."""
    found = [ROOT / "tools/results" / f"{name}.txt" for name in ("bench_selftest", "bench_session")]
    return "\n\n".join(f"```text\n{path.read_text(encoding='utf-8').rstrip()}\n```" for path in found)


PARTS = {"commands": commands, "screen": screen, "survey": survey, "evidence": evidence}


def filled(text: str) -> str:
    """`text` with every generated part made anew."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: made by tools/readme.py -->", f"<!-- end of {name} -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise SystemExit(f"README.md needs one '{begin}' and one '{end}'")
        head, rest = text.split(begin)
        tail = rest.split(end)[1]
        text = f"{head}{begin}\n{make()}\n{end}{tail}"
    return text


def main() -> int:
    """Writes or checks README.md."""
    old = README.read_text(encoding="utf-8")
    new = filled(old)
    if "--check" in sys.argv[1:]:
        if old != new:
            print("README.md is stale; run `python tools/readme.py`", file=sys.stderr)
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
