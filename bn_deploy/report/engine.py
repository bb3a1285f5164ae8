"""Plans, and what a parser makes of a file, as plain text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bn_deploy.report.layout import table, wrapped


def engine_text(facts: Mapping[str, Any], name: str) -> str:
    """What matters of a plan, from its side-car."""
    settings = facts["settings"]
    batch = ", ".join(":".join(str(size) for size in sizes) for sizes in facts["profiles"])
    tf32 = " (TF32 allowed)" if "TF32" in settings.get("flags", ()) else ""
    counted = facts["engine_layers"] or facts["layers"]
    whose = "of the engine" if facts["engine_layers"] else "of the parsed network"
    shares = ", ".join(f"{count} in {precision}" for precision, count in counted.items())
    return wrapped(
        f"engine {name}: {facts['plan_bytes'] / 1e3:,.1f} kB, {facts['precision']}{tf32}, "
        f"{facts['tensorrt']} {facts['tensorrt_version']}, batch {batch}, for GPUs of compute capability "
        f"{', '.join(facts['compute_capabilities'])}; layers {whose}: {shares}"
    )


def missing_text(facts: Mapping[str, Any]) -> str:
    """What the TensorRT that built a plan does not offer, from its side-car; empty if nothing."""
    reasons = facts["settings"].get("not_available", {})
    return wrapped(f"not available here: {'; '.join(reasons)}") if reasons else ""


def dry_run_text(facts: Mapping[str, Any]) -> str:
    """What a parser cannot import, a row each; from DryRun.to_json."""
    unsupported = facts["unsupported"]
    if not unsupported:
        return f"{facts['tensorrt']} imports all of the {facts['nodes']} nodes"
    rows = [(node["name"] or "-", node["operator"] or "-", node["reason"]) for node in unsupported]
    head = f"{facts['tensorrt']} cannot import {len(rows)} of {facts['nodes']} nodes"
    return f"{head}\n{table(['node', 'operator', 'reason'], rows, left=3)}"
