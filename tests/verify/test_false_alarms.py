"""Correct folds give no alarm, however hard the statistics and however few the images.

On few images one float32 run may be several times nearer to float64 than it deserves: by the run that was
measured alone, 13 of these 200 folds would fail.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.backends.base import Array
from bn_deploy.folding.modules.driver import fold
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Form, Reference
from bn_deploy.verify.rerun import drawn, in_float64
from bn_deploy.verify.tolerance import number_class
from tests.lenets import garments, hard
from tests.verify import random_folds


def running(network: nn.Module) -> Reference:
    def run(images: Array) -> Array:
        with torch.no_grad():
            return np.asarray(network(torch.from_numpy(np.ascontiguousarray(images))).numpy())

    return run


def judged(network: nn.Module, folded: nn.Module, images: Array) -> tuple[str | None, float]:
    """What failed, and how many times farther off than the trained network the folded one is."""
    known = Evidence(draws={"fp32": drawn(network, number_class("fp32"), images.shape[1:])})
    forms = [
        Form(name, running(module), "torch", "eager", "fp32")
        for name, module in (("trained", network), ("folded", folded))
    ]
    labels = np.zeros(len(images), int)
    parity = compare(forms, in_float64(network), images, labels, evidence=known)
    return parity.failed, parity.stages[1].rms / parity.stages[0].rms


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_correct_folds_of_random_networks_give_no_alarm(start: int) -> None:
    for seed in range(start, start + 20):
        network = random_folds.network(seed)
        result = fold(network, (torch.zeros(2, *random_folds.SHAPE),))
        assert len(result.report.folded) == 3
        failed, _ = judged(network, result.module, random_folds.images(seed, 16).numpy())
        assert failed is None, seed


def test_the_measured_run_alone_would_give_alarms() -> None:
    """Else this file tested nothing."""
    ratios = [
        judged(network, fold(network, (torch.zeros(2, *random_folds.SHAPE),)).module, images)[1]
        for network, images in (
            (random_folds.network(seed), random_folds.images(seed, 16).numpy()) for seed in (20, 27, 115)
        )
    ]
    assert min(ratios) > 2


@pytest.mark.parametrize("seed", range(6))
def test_correct_folds_of_lenets_give_no_alarm(seed: int) -> None:
    network = hard(seed)
    failed, _ = judged(network, fold(network).module, garments().test.images[:20])
    assert failed is None
