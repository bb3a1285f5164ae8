"""The keep-list follows from measurements: what leaves the range, and what costs the outputs most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from bn_deploy.errors import ModelError
from bn_deploy.precision import sensitivity
from bn_deploy.precision.formats import BF16, FP16, HALVES, Half
from bn_deploy.precision.quantize import candidates
from bn_deploy.precision.sensitivity import (
    BITS,
    INT8_UNIT,
    MEASURED,
    Cost,
    Outputs,
    calibrated,
    half_costs,
    int8_costs,
    keep,
    spread,
)
from bn_deploy.spec import silent
from tests.precision.zoo import Net, images, plain

BUDGET = 2**BITS * FP16.unit
END = 65504.0


def cost(name: str, error: float, largest: float = 1.0) -> Cost:
    return Cost(name, "Conv", "fp16", largest, error)


@pytest.mark.parametrize(
    ("costs", "kept"),
    [
        ([], set()),
        ([cost("a", BUDGET)], set()),
        ([cost("a", BUDGET * 1.01)], {"a"}),
        ([cost("a", 0.8 * BUDGET), cost("b", 0.5 * BUDGET)], set()),  # independent errors add as squares
        ([cost("a", 0.8 * BUDGET), cost("b", 0.7 * BUDGET)], {"a"}),  # the costliest goes, wherever it stands
        ([cost("a", 0.1 * BUDGET), cost("last", 2 * BUDGET), cost("c", 3 * BUDGET)], {"last", "c"}),
        ([cost("a", float("inf")), cost("b", 0.0)], {"a"}),
        ([cost("a", float("nan"))], {"a"}),
        ([cost("a", 0.0, END)], {"a"}),
        ([cost("a", 0.0, END / 2)], set()),  # others may reach twice as far
        ([cost("a", 0.0, END / 1.9)], {"a"}),
        ([cost("a", 0.0, float("nan"))], {"a"}),
        ([cost("wide", 5 * BUDGET, END), cost("b", BUDGET)], {"wide"}),  # what is kept costs nothing any more
    ],
)
def test_the_costliest_stay_until_the_rest_fits_the_budget(costs: Sequence[Cost], kept: set[str]) -> None:
    assert set(keep(costs, FP16.unit, END)) == kept


def test_reasons_hold_the_numbers() -> None:
    costs = [cost("far", 0.0, 7e4), cost("costly", 0.25), cost("broken", float("inf"))]
    reasons = keep(costs, FP16.unit, END)
    assert reasons == {
        "far": "reaches 7e+04 on calibration images, and others may reach 2 times farther; "
        "fp16 ends at 6.55e+04",
        "costly": "alone in fp16 it changes the outputs by 25.00% of their variation, where all that is "
        "narrow may cost 0.78%",
        "broken": "alone in fp16 it makes NaN or infinity of the outputs",
    }


def loud() -> Net:
    """A layer that gives out numbers beyond fp16, and one that brings them back."""
    net = Net((12,)).dense(12, 16).add("Relu").dense(16, 16).add("Mul", "back").add("Tanh").dense(16)
    net.weights["w2"] *= np.float32(5e4)
    net.weights["w2.bias"] *= np.float32(5e4)
    net.weights["back"] = np.array(2.0**-15, np.float32)
    return net


@pytest.mark.parametrize(("half", "kept"), [(FP16, ["n_gemm_2", "n_mul_3"]), (BF16, [])])
def test_operators_that_give_or_read_what_leaves_the_range_are_kept_and_no_others(
    half: Half, kept: list[str]
) -> None:
    net = loud()
    costs = half_costs(net.model(), half, images(net), silent)
    assert [one.node for one in costs] == [
        "n_gemm_0",
        "n_relu_1",
        "n_gemm_2",
        "n_mul_3",
        "n_tanh_4",
        "n_gemm_5",
    ]
    reasons = keep(costs, half.unit, half.largest)
    assert list(reasons) == kept
    if kept:
        assert reasons["n_gemm_2"].startswith("reaches ")
        assert reasons["n_mul_3"].startswith("alone in fp16 it changes the outputs by ")  # it reads them


def cancelling() -> Net:
    """The difference of two large numbers, whose rounding is as large as it is itself."""
    net = Net((12,)).dense(12, 16)
    net.weights["much"] = np.full(16, 500, np.float32)
    return net.add("Add", "much").add("Sub", "much").dense(16)


def test_an_operator_that_loses_what_matters_is_kept() -> None:
    net = cancelling()
    costs = {one.node: one for one in half_costs(net.model(), FP16, images(net), silent)}
    assert set(keep(list(costs.values()), FP16.unit, FP16.largest)) == {"n_sub_2", "n_add_1"}
    assert costs["n_add_1"].largest == pytest.approx(500, rel=0.05)
    assert max(costs["n_gemm_0"].error, costs["n_gemm_3"].error) < BUDGET / 4


def test_nan_is_no_small_number() -> None:
    net = Net((12,)).add("Sub", "ones").add("Sqrt").add("Mul", "none").dense(12)
    net.weights |= {"ones": np.array(1, np.float32), "none": np.array(0, np.float32)}
    costs = half_costs(net.model(), FP16, images(net), silent)
    assert [one.largest for one in costs][1:3] == [float("inf")] * 2


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.precision.value)
def test_a_well_conditioned_network_costs_a_few_units_an_operator(half: Half) -> None:
    net = plain()
    costs = half_costs(net.model(), half, images(net), silent)
    assert [one.operator for one in costs] == ["Conv", "Sigmoid", "Flatten", "Gemm"]
    assert all(0 < one.error < 8 * half.unit for one in costs)
    assert keep(costs, half.unit, half.largest) == {}


def test_int8_costs_are_those_of_one_layer_at_a_time() -> None:
    """One input that is a thousand times larger than the rest takes all levels of the layer that reads it."""
    net = Net((12,)).dense(12, 16).add("Relu").dense(16)
    batch = images(net)
    batch[:, 3] *= 1000
    net.weights["w0"][:, 3] *= np.float32(1e-3)
    model = net.model()
    able = candidates(model)
    known = calibrated(model, able, batch)
    first, last = int8_costs(model, able, known.ranges, batch, silent)
    assert (first.node, last.node, first.precision) == ("n_gemm_0", "n_gemm_2", "int8")
    assert first.error > 2**BITS * INT8_UNIT > last.error > 0
    assert list(keep([first, last], INT8_UNIT)) == ["n_gemm_0"]


@pytest.mark.parametrize(
    ("errors", "chosen"),
    [
        ({"minmax": 0.020, "percentile": 0.019, "entropy": 0.020}, "minmax"),  # less than a tenth better
        ({"minmax": 0.020, "percentile": 0.017, "entropy": 0.016}, "entropy"),
        ({"minmax": 0.020, "percentile": float("inf"), "entropy": 0.020}, "minmax"),
    ],
)
def test_a_calibrator_that_cuts_must_earn_it(
    errors: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = plain()
    model = net.model()
    left = iter(errors.values())
    monkeypatch.setattr(Outputs, "error", lambda *_: next(left))
    found = calibrated(model, candidates(model), images(net))
    assert (found.method, found.errors) == (chosen, errors)


def test_an_error_is_relative_to_what_varies_between_images() -> None:
    net = plain()
    net.weights["w3.bias"] += np.float32(1000)  # a constant that hides nothing
    model = net.model()
    outputs = Outputs(model, images(net))
    shifted = plain()
    shifted.weights["w3.bias"] += np.float32(1001)
    assert outputs.error(model) == 0.0
    assert outputs.error(shifted.model()) > 1


def test_a_network_without_numbers_to_measure_is_refused() -> None:
    net = Net((12,)).dense(12).add("ArgMax", axis=1)
    model = net.model()
    model.graph.output[0].type.tensor_type.elem_type = 7
    with pytest.raises(ModelError, match="gives out no floating-point numbers"):
        Outputs(model, images(net))


def test_costs_are_measured_on_images_from_everywhere() -> None:
    batch = np.arange(1000.0)[:, None]
    chosen = spread(batch)[:, 0]
    assert len(chosen) == MEASURED == len(set(chosen))
    assert (chosen[0], chosen[-1]) == (0, 999)
    assert len(spread(batch[:5])) == 5
    assert sensitivity.HEADROOM == 2
