"""Where and when a tool measured, in one line."""

from __future__ import annotations

from datetime import datetime, timezone

from bn_deploy.bench.environment import environment


def machine() -> str:
    """The date, the processor and every version that a measurement depends on."""
    facts = environment()
    versions = [f"{name} {version}" for name, version in facts["versions"].items() if version]
    told = [facts["cpu_model"], facts["gpu_name"], f"{facts['usable_cores'] or '?'} cores", *versions]
    today = datetime.now(timezone.utc).date().isoformat()
    return f"{today}, {', '.join(filter(None, told))}, Python {facts['python']}"
