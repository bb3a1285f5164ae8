"""A typed file as text: what it computes in, what stays wider and why, and what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bn_deploy.precision.census import DtypeCensus
from bn_deploy.report.layout import counted, table, wrapped
from bn_deploy.spec import Precision

_SHOWN = 5
"""How many of the costliest operators are listed; all are in manifest.json."""


def precision_text(facts: Mapping[str, Any], path: str) -> str:
    """What there is to say of a typed file.

    Args:
        facts: what `TypedModel.facts` gives.
        path: the file.
    """
    calibration = facts["calibration"]
    by = f", ranges by {calibration['method']}" if "method" in calibration else ""
    kept = [wrapped(f"{name} stays wider: {reason}") for name, reason in facts["kept"].items()]
    return "\n".join(
        [
            wrapped(f"{path}: {facts['precision']}{_target(facts)}"),
            dtypes_text(DtypeCensus.from_json(facts["dtypes"])),
            *(kept or ["no operator stays wider"]),
            _costs(facts["costs"]),
            wrapped(
                f"all together change the outputs by {_share(facts['error'])} of their variation; from "
                f"{counted(calibration['images'], 'training image')}, SHA-256 {calibration['sha256'][:12]}, "
                f"costs on {calibration['measured']} of them{by}"
            ),
        ]
    )


def _target(facts: Mapping[str, Any]) -> str:
    """What the file is for, where that makes a difference."""
    both = facts["precision"] == Precision.INT8_FP16.value
    return f", for TensorRT {facts['target']}" if both else ""


def dtypes_text(dtypes: DtypeCensus) -> str:
    """The operators and multiply-accumulates of a file by number format."""
    rows = [
        (name, f"{operators:,}", f"{part:.1%}", f"{macs:,}", f"{of_macs:.1%}")
        for name, operators, part, macs, of_macs in dtypes.rows()
    ]
    conversions = ", ".join(f"{number} {name}" for name, number in dtypes.conversions.items())
    columns = ["computes in", "operators", "share", "multiply-accumulates", "share"]
    return f"{table(columns, rows)}\nconversions: {conversions or 'none'}"


def _costs(costs: list[Mapping[str, Any]]) -> str:
    """The costliest operators."""
    ordered = sorted(costs, key=lambda cost: -float("inf") if cost["error"] is None else -cost["error"])
    rows = [
        (cost["node"], cost["operator"], cost["precision"], f"{cost['largest']:.3g}", _share(cost["error"]))
        for cost in ordered[:_SHOWN]
    ]
    return table(["costliest alone", "operator", "tried in", "largest", "changes outputs by"], rows, left=3)


def _share(error: float | None) -> str:
    return "everything" if error is None else f"{error:.3%}"
