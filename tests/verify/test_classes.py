"""An engine in narrower numbers is measured by the trained network in the same numbers, and by no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bn_deploy.spec import Stage
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Form, Reference
from bn_deploy.verify.parity import Parity
from bn_deploy.verify.rerun import DRAWS, drawn, in_class, in_float64
from bn_deploy.verify.tolerance import number_class
from tests.lenets import form, garments
from tests.verify.test_false_alarms import running

SHAPE = (1, 28, 28)
IMAGES, LABELS = garments().test.images[:60], garments().test.labels[:60]


def judged(name: str, engine: Reference) -> Parity:
    """The trained LeNet and an engine that says that it computes in a class of numbers."""
    numbers, network = number_class(name), form(Stage.TRAINED)
    known = Evidence(
        draws={name: drawn(network, numbers, SHAPE)[:3]},
        baselines={name: in_class(network, numbers, SHAPE)},
    )
    forms = [
        Form("trained", running(network), "torch", "eager", "fp32"),
        Form("engine", engine, "trt", "TensorRT", name),
    ]
    return compare(forms, in_float64(network), IMAGES, LABELS, evidence=known)


@pytest.mark.parametrize("name", ["tf32", "fp16", "bf16"])
def test_the_folded_network_in_the_same_numbers_passes(name: str) -> None:
    parity = judged(name, in_class(form(Stage.FOLDED), number_class(name), SHAPE))
    assert parity.failed is None
    engine = parity.stages[1]
    assert engine.rms > 100 * parity.stages[0].rms
    assert engine.budget.observed <= engine.budget.high
    assert f"in {name}" in parity.scale(engine).source or f"{name} roundings" in parity.scale(engine).source


@pytest.mark.parametrize(("said", "done"), [("tf32", "bf16"), ("fp16", "bf16")])
def test_coarser_numbers_than_it_says_are_seen(said: str, done: str) -> None:
    assert judged(said, in_class(form(Stage.FOLDED), number_class(done), SHAPE)).failed == "trained/engine"


def test_tf32_operands_have_eleven_bits() -> None:
    """The largest relative error of cutting is twice that of rounding."""
    product = torch.nn.Linear(1, 1, bias=False).eval()
    x = np.linspace(1, 2, 1001, dtype=np.float32)[:, None]
    with torch.no_grad():
        product.weight.fill_(1.0)
    cut = in_class(product, number_class("tf32"), (1,))(x)
    assert (cut <= x).all()
    assert (x - cut).max() == pytest.approx(2.0**-10, rel=0.01)
    assert (cut == np.round(cut * 1024) / 1024).all()


def test_drawn_runs_differ_from_each_other_and_are_always_the_same() -> None:
    runs = [drawn(form(Stage.TRAINED), number_class("fp32"), SHAPE) for _ in range(2)]
    assert len(runs[0]) == DRAWS
    answers = [[run(IMAGES[:4]) for run in runs[i][:3]] for i in range(2)]
    assert all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))
    assert not np.array_equal(answers[0][0], answers[0][1])
    exact = in_float64(form(Stage.TRAINED))(IMAGES[:4])
    assert 0 < np.abs(answers[0][0] - exact).max() < 1e-4


@pytest.mark.parametrize("name", ["int8", "int8+fp16"])
def test_the_folded_network_in_int8_passes_and_one_of_fewer_levels_does_not(name: str) -> None:
    """Nothing is drawn for int8: its steps are relative to a whole tensor."""

    def judged_without_draws(engine: Reference) -> Parity:
        numbers, network = number_class(name), form(Stage.TRAINED)
        forms = [
            Form("trained", running(network), "torch", "eager", "fp32"),
            Form("engine", engine, "trt", "TensorRT", name),
        ]
        known = Evidence(baselines={name: in_class(network, numbers, SHAPE)})
        return compare(forms, in_float64(network), IMAGES, LABELS, evidence=known)

    folded = in_class(form(Stage.FOLDED), number_class(name), SHAPE)
    parity = judged_without_draws(folded)
    assert parity.failed is None
    assert f"the trained network's own in {name}" in parity.scale(parity.stages[1]).source

    def worse(images: np.typing.NDArray[np.float32]) -> np.typing.NDArray[np.float64]:
        exact = in_float64(form(Stage.FOLDED))(images)
        return np.asarray(exact + 8 * (folded(images) - exact))

    assert judged_without_draws(worse).failed == "trained/engine"


def test_int8_operands_have_255_levels_for_each_output_channel() -> None:
    product = torch.nn.Linear(2, 2, bias=False).eval()
    with torch.no_grad():
        product.weight.copy_(torch.tensor([[127.0, 0.6], [1.27, 0.006]]))
    run = in_class(product, number_class("int8"), (2,))
    # An image of (0, 127) picks the second weight of each row: 0.6 is on the first row's step of 1, 0.006 on
    # the second row's of 0.01.
    assert run(np.array([[0.0, 127.0]], np.float32)) == pytest.approx(np.array([[127.0, 1.27]]))
    # The activation's step is that of the largest in the batch, 127 / 127: 0.4 is nothing, 0.6 is one.
    assert run(np.array([[0.4, 127.0]], np.float32)) == pytest.approx(np.array([[127.0, 1.27]]))
    assert run(np.array([[0.6, 127.0]], np.float32)) == pytest.approx(np.array([[254.0, 2.54]]))
