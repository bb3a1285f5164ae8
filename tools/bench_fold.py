"""Times the folding of the LeNet, tracing apart: medians over fresh networks, in ms.

python tools/bench_fold.py
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from bn_deploy.bench.measure import CLOCK
from bn_deploy.folding.modules import driver as modules
from bn_deploy.folding.modules import trace
from bn_deploy.model import build

ROUNDS = 30


def main() -> int:
    """Folds the reference network ROUNDS times and prints how long it took."""
    tracing_s = 0.0
    original = trace.trace

    def timed(*arguments: Any) -> Any:
        nonlocal tracing_s
        start = CLOCK()
        try:
            return original(*arguments)
        finally:
            tracing_s += CLOCK() - start

    def once(fold: Callable[..., Any]) -> tuple[float, float]:
        nonlocal tracing_s
        network = build("lenet", "custom").eval()
        tracing_s, start = 0.0, CLOCK()
        result = fold(network)
        whole_s = CLOCK() - start
        assert not result.report.kept  # noqa: S101 - a fold that does nothing is quickly done
        return whole_s - tracing_s, tracing_s

    setattr(modules, "trace", timed)  # noqa: B010 - where `fold` looks it up; mypy keeps it from assigning
    torch.set_num_threads(1)
    once(modules.fold)
    times = [once(modules.fold) for _ in range(ROUNDS)]
    folding, tracing = (statistics.median(column) * 1e3 for column in zip(*times, strict=True))
    print(f"folding the LeNet: {folding:.1f} ms, and {tracing:.1f} ms of tracing (median of {ROUNDS})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
