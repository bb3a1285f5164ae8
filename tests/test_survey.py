"""The table of folding: what tools/fold_survey.py found, in words that hide nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bn_deploy.artifact import read_json
from tests.architectures import ARCHITECTURES

TOOLS = Path(__file__).parent.parent / "tools"


def table(survey: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(TOOLS))
    return str(__import__("fold_table").table(survey))


def survey(**cells: Any) -> dict[str, Any]:
    return {
        "date": "2026-01-02",
        "versions": {"torch": "2.10", "onnxsim": "not installed"},
        "architectures": {
            "a": {"batchnorms": 5, "foldable": 4},
            "b": {"batchnorms": 3, "foldable": 3},
        },
        "flavours": {"torch's": {"some tool": cells or "not installed"}},
    }


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"left": 1, "error": 1e-7}, {"left": 0, "error": 3e-6}, "1 | 0 | 7 of 7 | 3.0e-06"),
        # What is wrong is not folded, and neither is what was never delivered.
        ({"left": 1, "error": 0.02}, {"left": 0, "error": 3e-6}, "1 **wrong** | 0 | 3 of 7 | 2.0e-02"),
        ({"left": 1, "error": 1e-7}, {"crashed": "it fell"}, "1 | crashed | 4 of 7 | 1.0e-07"),
        ({"crashed": "it fell"}, {"crashed": "it fell"}, "crashed | crashed | 0 of 7 |"),
    ],
)
def test_what_a_row_says(
    a: dict[str, Any], b: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = table(survey(a=a, b=b), monkeypatch)
    row = next(line for line in text.splitlines() if line.startswith("| some tool"))
    assert " ".join(row.split()).startswith(f"| some tool | {expected}")
    assert ("it fell" in text) == ("crashed" in expected)


def test_a_missing_tool_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    text = table(survey(), monkeypatch)
    row = next(line for line in text.splitlines() if line.startswith("| some tool"))
    assert "not installed" in row
    assert text.endswith("2026-01-02, torch 2.10, onnxsim not installed.")


def test_what_was_written_down_is_about_these_architectures() -> None:
    found = read_json(TOOLS / "fold_survey.json")
    assert found["architectures"] == {
        name: {"batchnorms": row.batchnorms, "foldable": row.foldable} for name, row in ARCHITECTURES.items()
    }
