"""What of all that bn-deploy can use is here, and what is missing, with what would make it so."""

from __future__ import annotations

from typing import Any

from bn_deploy.backends import BACKENDS
from bn_deploy.bench.environment import environment
from bn_deploy.engine import api, driver, knobs
from bn_deploy.errors import NotAvailable


def examine() -> dict[str, Any]:
    """The findings as a JSON object; a choice or a backend that is there has no reason against it: null.

    Nothing of TensorRT but its module is touched: without a driver its runtime crashes the process.
    """
    gpu = driver.find_gpu()
    try:
        tensorrt = api.find()
        engine, offers = f"{tensorrt}, only runs plans", {}
        if tensorrt.builds:
            engine = f"{tensorrt}, builds {'without' if tensorrt.builds_without_gpu else 'only with'} a GPU"
            lacking = knobs.missing(tensorrt)
            offers = {knob.name: lacking.get(knob.name) for knob in knobs.KNOBS}
    except NotAvailable as error:
        engine, offers = f"none: {error}", {}
    return {
        "environment": environment(),
        "onnxruntime_providers": _providers(),
        "tensorrt": engine,
        "tensorrt_offers": offers,
        "gpu": f"none: {gpu}" if isinstance(gpu, str) else str(gpu),
        "backends": {row.name: row.why_not() for row in BACKENDS},
    }


def _providers() -> list[str]:
    """ONNX Runtime's execution providers; none if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return []
    providers: list[str] = onnxruntime.get_available_providers()
    return providers
