from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.batchnorm.tensors import device_of, to_vector, widest_dtype
from tests.batchnorm.layers import hard_numbers, layer


def numbers(**changes: Any) -> BatchNormParams:
    given: dict[str, Any] = {
        "weight": np.array([2.0, -3.0]),
        "bias": np.array([1.0, 0.5]),
        "running_mean": np.array([4.0, 0.0]),
        "running_var": np.array([3.0, 8.0]),
        "eps": 1.0,
    }
    return BatchNormParams(**{**given, **changes})


def test_the_map_by_hand() -> None:
    affine = numbers().affine()
    assert affine.scale.tolist() == [1.0, -1.0]  # 2 / sqrt(3 + 1), -3 / sqrt(8 + 1)
    assert affine.shift.tolist() == [-3.0, 0.5]  # 1 - 4 * 1, 0.5 - 0


def test_parts_of_any_shape_are_flattened() -> None:
    assert numbers(weight=np.array([[[[2.0]], [[-3.0]]]])).affine().scale.tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"weight": np.array([np.nan, 1.0])}, "weight is not finite in 1 channel"),
        ({"running_mean": np.array([np.inf, -np.inf])}, "running_mean is not finite in 2 channel"),
        ({"bias": np.array([1.0])}, r"disagree about the number of channels: \[1, 2\]"),
        ({"eps": float("nan")}, "eps is nan"),
        ({"running_var": np.array([3.0, -1.0])}, "has no root"),  # exactly zero with eps
        ({"eps": 0.0, "running_var": np.array([0.0, 1.0])}, "has no root"),
        ({"running_var": np.array([3.0, -1.5])}, "running_var . eps is -0.5"),
    ],
)
def test_numbers_that_define_no_map_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        numbers(**changes)


def test_a_negative_variance_that_eps_mends_is_a_map() -> None:
    assert numbers(running_var=np.array([3.0, -0.75])).affine().scale.tolist() == [1.0, -6.0]


@pytest.mark.parametrize(
    ("tensor", "text"),
    [
        (torch.ones(2, dtype=torch.complex64), "not one of real numbers"),
        (torch.ones(2, dtype=torch.int64), "not one of real numbers"),
        (torch.ones(2, device="meta"), "has no values"),
        (torch.ones(2, 2).to_sparse(), "not a plain tensor"),
    ],
)
def test_tensors_that_hold_no_plain_numbers_are_refused(tensor: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        to_vector(tensor)


def test_a_vector_is_a_copy() -> None:
    tensor = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    to_vector(tensor)[:] = 7
    assert tensor.flatten().tolist() == [1.0, 1.0]


def test_the_widest_type_counts_plain_tensors() -> None:
    module = layer("recognised", hard_numbers(2), 2, torch.float32).half()
    assert module.gamma.dtype is torch.float16
    assert widest_dtype(module) is torch.float32  # .half() left the statistics alone


def test_a_layer_without_tensors_takes_the_default_type() -> None:
    assert widest_dtype(torch.nn.ReLU()) is torch.float32
    assert device_of(torch.nn.ReLU()) == torch.device("cpu")
    assert device_of(torch.nn.BatchNorm1d(2, device="meta")) == torch.device("meta")
