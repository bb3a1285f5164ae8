"""What else a forward may ask: each kind is refused, and folds where nothing hangs on the answer."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import output, random_input, untouched
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful

Course = Callable[[Any, Tensor], Any]

FAR = 70
"""A size that no enlarged example has."""


def if_so(condition: Callable[[Any, Tensor], Any]) -> Course:
    """Something stands between the layer and its batch norm if it is so."""

    def forward(m: Any, x: Tensor) -> Any:
        y = m.conv(x)
        return m.bn(y.abs() if condition(m, x) else y)

    return forward


def after(use: Callable[[Any, Tensor], Any]) -> Course:
    """Something is done with the input that changes nothing."""

    def forward(m: Any, x: Tensor) -> Any:
        use(m, x)
        return m.bn(m.conv(x))

    return forward


def views_as_one(m: Any, x: Tensor) -> bool:
    try:
        x.view(-1, 7, 9)
    except RuntimeError:
        return False
    return True


def suppressed(m: Any, x: Tensor) -> Any:
    y = m.conv(x)
    with suppress(RuntimeError):
        y = m.conv(x).view(x.shape[0], 3, -1).abs().view(y.shape)
    return m.bn(y)


def caught(m: Any, x: Tensor, otherwise: Callable[[Tensor], Tensor]) -> Any:
    try:
        y = m.conv(x)
    except RuntimeError:
        y = otherwise(m.conv(x[..., :1]))
    return m.bn(y)


def typed(m: Any, x: Tensor, otherwise: Callable[[Tensor], Tensor]) -> Any:
    y = m.conv(x.double())
    return m.bn(otherwise(y) if x.dtype is torch.float32 else y)


def asserted(m: Any, x: Tensor) -> Any:
    check(x.shape[2] > 0, f"{x.shape[2]} rows")
    return m.bn(m.conv(x))


def logged(m: Any, x: Tensor) -> Any:
    logging.getLogger(__name__).info("%s rows of %s", x.shape[2], f"{x.shape[3] * 2} columns")
    return m.bn(m.conv(x))


def cleaned_up(m: Any, x: Tensor) -> Any:
    try:
        y = m.conv(x)
    finally:
        m.last = None
    return m.bn(y)


is_tracing: Any = vars(torch.jit)["is_tracing"]  # torch's functions have no types
is_scripting: Any = vars(torch.jit)["is_scripting"]
check: Any = torch._assert
PAIRS: Any = {(FAR, FAR): 1}
COUNT = itertools.count()
CALLS = {"number": 0}
DRAWS = random.Random(0)  # noqa: S311 - as a forward may


def counted() -> Course:
    number = 0

    def forward(m: Any, x: Tensor) -> Any:
        nonlocal number
        number += 1
        y = m.conv(x)
        return m.bn(y.abs() if number > FAR else y)

    return forward


def scaled_by(table: list[float]) -> Course:
    return lambda m, x: m.bn(m.conv(x) * table[0])


def count_globally(m: Any, x: Tensor) -> bool:
    CALLS["number"] += 1
    return CALLS["number"] > FAR


def write_through_numpy(m: Any, x: Tensor) -> Any:
    weight = m.conv.weight.detach().numpy()
    weight *= 0.5
    return m.bn(m.conv(x))


def in_another_thread(m: Any, x: Tensor) -> Any:
    y, seen = m.conv(x), []
    worker = threading.Thread(target=lambda: seen.append(y * 2))
    worker.start()
    worker.join()
    return m.bn(y) + seen[0]


ASKED: dict[str, tuple[Course, str]] = {
    # a forward, and a part of the reason why its batch norm stays
    "a size in a dict": (if_so(lambda m, x: {FAR: 1}.get(x.shape[2])), "looks it up in a table"),
    "a length in a set": (if_so(lambda m, x: x.size(2) in {8, FAR}), "looks it up in a table"),
    "a shape in a dict": (
        if_so(lambda m, x: PAIRS.get(tuple(x.shape[2:]))),
        "looks it up in a table",
    ),
    "a computed size in a dict": (if_so(lambda m, x: {FAR: 1}.get(x.numel() + 7)), "looks it up in a table"),
    "a size in a text": (
        if_so(lambda m, x: f"{x.shape[2]}x{x.shape[3]}" == "70x70"),
        "writes it into a text",
    ),
    "a size as a text": (if_so(lambda m, x: str(x.shape[2]) == "70"), "writes it into a text"),
    "a size that equals a float": (if_so(lambda m, x: x.shape[2] == 70.0), "observed calls"),
    "a size in an array": (if_so(lambda m, x: np.gcd.reduce(np.array(x.shape[2:])) == 9), "."),
    "an error in view": (if_so(views_as_one), "catches an error"),
    "an error that is suppressed": (suppressed, "."),
    "an error that is caught": (lambda m, x: caught(m, x, torch.abs), "observed calls"),
    "the type": (lambda m, x: typed(m, x, torch.abs), "observed calls"),
    "the device": (if_so(lambda m, x: x.device.type == "cuda"), "observed calls"),
    "whether it is on a GPU": (if_so(lambda m, x: x.is_cuda), "observed calls"),
    "whether it needs a gradient": (if_so(lambda m, x: x.requires_grad), "observed calls"),
    "whether it is contiguous": (if_so(lambda m, x: not x.is_contiguous()), "observed calls"),
    "the layout": (if_so(lambda m, x: x.layout is not torch.strided), "asks for the layout"),
    "grad mode": (if_so(lambda m, x: torch.is_grad_enabled()), "observed calls"),
    "inference mode": (if_so(lambda m, x: torch.is_inference_mode_enabled()), "observed calls"),
    "autocast": (if_so(lambda m, x: torch.is_autocast_enabled("cpu")), "observed calls"),
    "tracing": (if_so(lambda m, x: is_tracing()), "observed calls"),
    "scripting": (if_so(lambda m, x: is_scripting()), "observed calls"),
    "ONNX export": (if_so(lambda m, x: torch.onnx.is_in_onnx_export()), "observed calls"),
    "compiling": (if_so(lambda m, x: torch.compiler.is_compiling()), "observed calls"),
    "two modes": (
        if_so(lambda m, x: all([is_tracing(), torch.onnx.is_in_onnx_export()])),
        "observed calls",
    ),
    "an iterator": (if_so(lambda m, x: next(COUNT) > FAR), "COUNT"),
    "a closure": (counted(), "the forward changes number in forward"),
    "a global name": (if_so(count_globally), "the forward changes the global CALLS"),
    "a generator": (if_so(lambda m, x: DRAWS.random() > 0.99), "DRAWS"),
    "Python's generator": (if_so(lambda m, x: random.random() > 0.99), "random generator"),  # noqa: S311
    "numpy's generator": (if_so(lambda m, x: np.random.rand() > 0.99), "random generator"),  # noqa: NPY002
    "the time": (if_so(lambda m, x: time.time() < 0), "calls time"),
    "a write through numpy": (write_through_numpy, "the forward writes to conv.weight"),
    "another thread": (in_another_thread, "another thread"),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_something_hangs_on_is_not_folded(name: str) -> None:
    forward, reason = ASKED[name]
    network = Base(forward)
    before = CALLS["number"]
    with untouched(network):
        (entry,) = fold(network, X).report.kept
    assert reason.strip(".") in entry.reason, entry.reason
    assert CALLS["number"] == before


HARMLESS: dict[str, Course] = {
    "a size in a message": asserted,
    "a size in a log": logged,
    "an error that leads to the same": lambda m, x: caught(m, x, torch.clone),
    "a type that leads to the same": lambda m, x: typed(m, x, torch.clone),
    "the channels in a dict": if_so(lambda m, x: {5: 1}.get(m.conv(x).shape[1])),
    "the rank in a text": if_so(lambda m, x: f"{x.ndim}" == "5"),
    "a finally": cleaned_up,
    "a type that is handed on": lambda m, x: m.bn(m.conv(x).to(x.dtype)),
    "a type to convert to": lambda m, x: m.bn(m.conv(x.double() if x.dtype is torch.float32 else x)),
    "a device that is handed on": lambda m, x: m.bn(m.conv(x) + torch.ones(3, 1, 1, device=x.device)),
    "a device to move to": lambda m, x: m.bn(m.conv(x if x.device == m.conv.weight.device else x.to("cpu"))),
    "contiguity": lambda m, x: m.bn(m.conv(x if x.is_contiguous() else x.contiguous())),
    "modes that change nothing": after(lambda m, x: is_tracing() or torch.is_grad_enabled()),
    "an iterator in the forward": lambda m, x: m.bn(next(iter([m.conv(x)]))),
    "a closure that stays": scaled_by([2.0]),
    "a mode after it": lambda m, x: m.bn(m.conv(x)) * (2 if torch.onnx.is_in_onnx_export() else 1),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_nothing_hangs_on_is_no_obstacle(name: str) -> None:
    network = Base(HARMLESS[name])
    result = assert_faithful(network, X, example_inputs=X)
    assert len(result.report.folded) == 1, str(result.report)
    x = random_input(1, 3, 7, 4)
    assert np.allclose(output(result.module, x), output(network, x), rtol=1e-9, atol=1e-9)


def test_what_a_forward_changes_outside_is_put_back() -> None:
    seen: list[Tensor] = []
    network = Base()
    network.conv.register_forward_hook(lambda m, i, y: seen.append(y.detach()))
    fold(network, X)
    assert not seen


def rows(x: Tensor) -> Iterator[float]:
    for row in x[0, 0, :, 0]:
        yield float(row)


def test_answers_after_the_last_layer_do_not_make_courses() -> None:
    """As where heat maps are decoded: what is read there decides nothing before it."""
    network = Base(lambda m, x: (y := m.bn(m.conv(x))) * sum(2 if value > 0 else 1 for value in rows(y)))
    assert len(assert_faithful(network, X, example_inputs=X).report.folded) == 1
