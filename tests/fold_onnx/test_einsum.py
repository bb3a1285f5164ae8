"""Einsum with one constant operand: a linear operator along any axes, whatever its letters are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bn_deploy.folding.graph import einsum
from bn_deploy.folding.graph.einsum import _Product
from tests.fold_onnx.graphs import BATCH, Net, assert_folds, assert_keeps, judged

IMAGE = ("N", 4, 6, 5)

AFTER: dict[str, tuple[tuple[int, ...], int]] = {
    # an equation, the shape of its weight, and the channels of the result
    "nchw,oc->nohw": ((3, 4), 3),
    "oc,nchw->nohw": ((3, 4), 3),
    "n c h w , c o -> n o h w": ((4, 3), 3),
    "nchw,oc->no": ((3, 4), 3),
    "nchw,ockw->nok": ((3, 4, 2, 5), 3),
    "nchw,c->nchw": ((4,), 4),
    "nchw,cwk->nchk": ((4, 5, 2), 4),
    "nc...,co->no...": ((4, 3), 3),
    "bcde,ac": ((3, 4), 3),
    "nchw,oc->onhw": ((3, 4), 3),
}


def product(net: Net, equation: str, data: str, shape: tuple[int, ...]) -> str:
    operands = [data, net.normal(*shape)]
    if equation.startswith("oc"):
        operands.reverse()
    return str(net.op("Einsum", *operands, equation=equation))


def channels_second(net: Net, equation: str, y: str) -> str:
    """The result with its channels, the letters o and a, on axis 1."""
    if equation == "nchw,oc->onhw" or equation.endswith("ac"):
        return str(net.op("Transpose", y, perm=[1, 0, 2, 3]))
    return y


@pytest.mark.parametrize("equation", AFTER)
def test_it_absorbs_what_comes_after_it(equation: str) -> None:
    shape, channels = AFTER[equation]
    net = Net(IMAGE)
    y = channels_second(net, equation, product(net, equation, "x", shape))
    report = assert_folds(net, net.op("Tanh", net.bn(y, channels)))
    assert report.folded[0].rule.startswith("einsum-bn")


BEFORE: dict[str, tuple[int, ...]] = {
    "nchw,oc->nohw": (3, 4),
    "oc,nchw->nohw": (3, 4),
    "nchw,oc->no": (3, 4),
    "nchw,ochw->no": (3, 4, 6, 5),
    "nchw,cwk->nchk": (4, 5, 2),
    "nc...,co->n...o": (4, 3),
    "nchw,ck->nhwk": (4, 2),
}


@pytest.mark.parametrize("equation", BEFORE)
def test_it_absorbs_what_comes_before_it(equation: str) -> None:
    net = Net((BATCH, *IMAGE[1:]))
    report = assert_folds(net, net.op("Tanh", product(net, equation, net.bn("x", 4), BEFORE[equation])))
    assert report.folded[0].rule == "bn-einsum into n_einsum1"


KEPT = {
    "the channels are the data's": ("nchw,wk->nchk", (5, 2), 4, "an axis that the weights of n_einsum0 lack"),
    "a diagonal": ("nchw,cc->nchw", (4, 4), 4, "what n_einsum0 computes is not known"),
    "axes without letters": ("...hw,...wk->...hk", (1, 4, 5, 2), 4, "what n_einsum0 computes is not known"),
    "one number for all": ("nchw,c->nchw", (1,), 4, "are broadcast along its channels"),
}


@pytest.mark.parametrize("case", KEPT)
def test_kept_with_the_reason(case: str) -> None:
    equation, shape, channels, reason = KEPT[case]
    net = Net((BATCH, *IMAGE[1:]))
    y = net.op("Einsum", "x", net.normal(*shape), equation=equation)
    assert_keeps(net, net.op("Tanh", net.bn(y, channels)), because=reason)


def test_two_operands_of_data_absorb_nothing() -> None:
    net = Net(IMAGE)
    y = net.op("Einsum", "x", net.op("Tanh", "x"), equation="nchw,nohw->nco")
    assert_keeps(net, net.op("Tanh", net.bn(y, 4)), because="are not constant")


def test_how_many_are_added_up_has_to_be_known() -> None:
    net = Net(("N", 4, "H", 5))
    y = net.op("Einsum", net.bn("x", 4), net.normal(3, 4), equation="nchw,oc->now")
    assert_keeps(net, net.op("Tanh", y), because="how many elements n_einsum1 adds up is not known")


def wrong_letters(network: Any, node: Any) -> _Product:
    return _Product(1, "co", "nchw", "nohw")


def shift_of_one(terms: str, weight: Any, shift: Any, **options: Any) -> Any:
    """W t without what is added up along the other axes."""
    return np.einsum(terms, weight, shift, **options) / shift.shape[2]


def test_a_wrong_axis_of_the_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    y = net.bn(product(net, "nchw,oc->nohw", "x", (4, 4)), 4)
    assert judged(net, y)
    monkeypatch.setattr(einsum, "_product", wrong_letters)
    assert not judged(net, y)


def test_a_shift_that_is_not_added_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net((BATCH, *IMAGE[1:]))
    y = product(net, "nchw,oc->no", net.bn("x", 4), (3, 4))
    assert judged(net, y)

    class Wrong:
        ones, zeros, broadcast_to = (
            staticmethod(np.ones),
            staticmethod(np.zeros),
            staticmethod(np.broadcast_to),
        )
        einsum = staticmethod(shift_of_one)

    monkeypatch.setattr(einsum, "np", Wrong)
    assert not judged(net, y)
