"""What a forward may ask of torch and of the machine besides its inputs: modes, export, the time.

Modes are questions: while a network is observed, the functions that tell them ask what is to be told. They
are replaced where they live and where the code of the network has imported them.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch.onnx  # noqa: F401 - torch loads it when it is first named, which would be in the forward

from bn_deploy.folding.modules.places import is_torch_asking
from bn_deploy.folding.modules.sizes import Asker

_MODES: dict[tuple[str, str], str] = {
    ("torch", "is_grad_enabled"): "grad",
    ("torch", "is_inference_mode_enabled"): "inference",
    ("torch", "is_autocast_enabled"): "autocast",
    ("torch", "is_autocast_cpu_enabled"): "autocast",
    ("torch", "is_anomaly_enabled"): "anomaly",
    ("torch._C", "_get_tracing_state"): "tracing",
    ("torch._C", "_is_tracing"): "tracing",
    ("torch.compiler", "is_compiling"): "compiling",
    ("torch.compiler", "is_dynamo_compiling"): "compiling",
    ("torch.compiler", "is_exporting"): "exporting",
    ("torch._dynamo", "is_compiling"): "compiling",
    ("torch._utils", "is_compiling"): "compiling",
    ("torch.jit", "is_scripting"): "scripting",
    ("torch.jit", "is_tracing"): "tracing",
    ("torch.onnx", "is_in_onnx_export"): "ONNX export",
}
"""Functions that tell how a network is run, where they live, and what they tell: that is one everywhere."""

_UNFORESEEN: tuple[tuple[str, str], ...] = (
    *(("time", name) for name in ("time", "time_ns", "perf_counter", "perf_counter_ns")),
    *(("time", name) for name in ("monotonic", "monotonic_ns", "process_time", "process_time_ns")),
    ("os", "urandom"),
)
"""Functions that give something else each time."""

_UNSEEN: tuple[tuple[type, str], ...] = (
    (threading.Thread, "start"),
    (ThreadPoolExecutor, "submit"),
)
"""Methods that let another thread work, which is not observed."""


@contextmanager
def answered(asker: Asker, spaces: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Lets `asker` answer for the settings.

    Args:
        asker: answers.
        spaces: the global names of the network's code.
    """
    replaced: list[tuple[dict[str, Any], str, Any]] = []
    others: dict[int, Any] = {}
    for home, name in (*_MODES, *_UNFORESEEN):
        space = vars(sys.modules[home]) if home in sys.modules else {}
        plain, mode = space.get(name), _MODES.get((home, name))
        if plain is None:
            continue
        others[id(plain)] = _unforeseen(plain, name, asker) if mode is None else _mode(plain, mode, asker)
        replaced.append((space, name, plain))
    for space in spaces:
        replaced += [(space, name, held) for name, held in list(space.items()) if id(held) in others]
    methods = [(cls, name, vars(cls)[name]) for cls, name in _UNSEEN]
    try:
        for space, name, plain in replaced:
            space[name] = others[id(plain)]
        for cls, name, plain in methods:
            setattr(cls, name, _unforeseen(plain, "works in another thread, which no one observes", asker))
        yield
    finally:
        for space, name, plain in replaced:
            space[name] = plain
        for cls, name, plain in methods:
            setattr(cls, name, plain)


def _mode(plain: Callable[..., Any], name: str, asker: Asker) -> Callable[..., Any]:
    observed = threading.get_ident()

    def ask(*args: Any, **kwargs: Any) -> Any:
        truth = plain(*args, **kwargs)
        if threading.get_ident() != observed or is_torch_asking():
            return truth
        told = asker.told(bool(truth), {True, False}, ((name, 0, 0),))
        return truth if told == bool(truth) else told

    return ask


def _unforeseen(plain: Callable[..., Any], what: str, asker: Asker) -> Callable[..., Any]:
    observed = threading.get_ident()

    def tell(*args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == observed and not is_torch_asking():
            asker.unknown = what if " " in what else f"calls {what}, which gives something else each time"
        return plain(*args, **kwargs)

    return tell
