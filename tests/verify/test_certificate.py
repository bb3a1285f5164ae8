"""A certificate promises no more than it can keep, and lists the rest."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.errors import ModelError
from bn_deploy.spec import Stage
from bn_deploy.verify.certificate import FIRST_ORDER, LISTED, STRICT, CertificateTally, Certified
from bn_deploy.verify.certify import NetworkCertifier
from bn_deploy.verify.program import capture
from bn_deploy.verify.tolerance import number_class
from tests.lenets import form, garments

FP32 = number_class("fp32")
SHAPE = (1, 28, 28)
IMAGES = garments().test.images[:60]


def test_most_labels_of_a_lenet_are_proven_and_none_of_the_proven_can_be_flipped() -> None:
    """Every weight is moved by a rounding in the direction that hurts the label most."""
    network = form(Stage.FOLDED)
    certified = NetworkCertifier(network, SHAPE, FP32)(IMAGES)
    assert certified.safe.mean() > 0.9
    assert (certified.strictly <= certified.safe).all()
    assert (certified.safe == (certified.margin > certified.reach)).all()
    for row in np.flatnonzero(certified.safe)[:10]:
        moved = copy.deepcopy(network).double()
        logits = moved(torch.from_numpy(IMAGES[row : row + 1]).double())[0]
        first, second = logits.argsort(descending=True)[:2]
        (logits[first] - logits[second]).backward()
        with torch.no_grad():
            for parameter in moved.parameters():
                assert parameter.grad is not None
                parameter.sub_(FP32.unit * parameter.abs() * parameter.grad.sign())
            assert int(moved(torch.from_numpy(IMAGES[row : row + 1]).double()).argmax()) == first


def test_the_strict_method_proves_less_and_neglects_nothing() -> None:
    strict, loose = (
        NetworkCertifier(form(Stage.FOLDED), SHAPE, FP32, m)(IMAGES) for m in (STRICT, FIRST_ORDER)
    )
    assert (strict.safe == strict.strictly).all()
    assert (strict.safe == loose.strictly).all()
    assert strict.safe.sum() < loose.safe.sum()
    assert (loose.reach <= strict.reach + 1e-12).all()


def test_half_precision_proves_nothing() -> None:
    assert not NetworkCertifier(form(Stage.FOLDED), SHAPE, number_class("fp16"))(IMAGES).safe.any()


def test_a_lead_within_rounding_is_at_risk() -> None:
    """Two classes that differ in the last bit only."""
    network = nn.Linear(4, 2, bias=False)
    with torch.no_grad():
        network.weight[1] = network.weight[0] * (1 + 2.0**-23)
    images = np.ones((1, 4), np.float32)
    certified = NetworkCertifier(network.eval(), (4,), FP32)(images)
    assert not certified.safe.any()
    with torch.no_grad():
        network.weight[1] = network.weight[0] + 1e-3
    assert NetworkCertifier(network, (4,), FP32)(images).safe.all()


def test_an_operator_without_a_rule_refuses_the_certificate() -> None:
    class Erf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = torch.special.erf(x)
            return y

    assert capture(Erf(), (4,)).steps
    with pytest.raises(ModelError, match=r"^no rounding rule for erf$"):
        NetworkCertifier(Erf(), (4,), FP32)


def known(logits: list[list[float]], reach: float = 0.1) -> Certified:
    """Of logits whose first label leads by 1, but for the last row's."""
    array = np.array(logits)
    margin = np.array([1.0] * (len(array) - 1) + [0.05])
    strictly = margin > 2 * reach
    bound = np.full(array.shape, reach / 2)
    return Certified(array, bound, margin, np.full(len(array), reach), strictly, margin > reach)


def test_a_tally_counts_lists_and_finds_the_worst() -> None:
    tally = CertificateTally(FIRST_ORDER)
    exact = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.45]])
    tally.add(known(exact.tolist()), exact, exact + np.array([[0.01, 0], [0, 0.04], [0, 0]]), 10)
    # The form's own numbers give another label than the trained network: nothing is proven of it.
    tally.add(
        known([[0.0, 1.0], [1.0, 0.0]]),
        np.array([[1.0, 0.0], [1.0, 0.0]]),
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        13,
    )
    result = tally.result()
    assert (result.images, result.proven, result.strictly) == (5, 2, 2)
    assert [risk.image for risk in result.at_risk] == [12, 13, 14]
    assert result.at_risk[0].margin == 0.05
    assert result.at_risk[0].bound == 0.1
    assert result.excess == pytest.approx(0.04 / 0.05)
    assert result.worst_image == 11


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_exceeds_every_bound(value: float) -> None:
    tally = CertificateTally(STRICT)
    exact = np.array([[1.0, 0.0], [0.5, 0.45]])
    tally.add(known(exact.tolist()), exact, np.array([[1.0, 0.0], [value, 0.45]]), 0)
    assert tally.result().excess == np.inf
    assert tally.result().worst_image == 1


def test_the_list_of_images_at_risk_ends() -> None:
    tally = CertificateTally(STRICT)
    exact = np.tile([[0.5, 0.45]], (LISTED + 50, 1))
    nothing = np.zeros(len(exact), bool)
    ones = np.ones(len(exact))
    tally.add(Certified(exact, exact * 0 + 1, ones, ones, nothing, nothing), exact, exact, 0)
    result = tally.result()
    assert len(result.at_risk) == LISTED
    assert result.images - result.proven == LISTED + 50
