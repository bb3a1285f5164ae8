from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.absorb import absorb_after

AFFINE = Affine(np.array([2.0, -1.0, 0.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))


def test_the_law_by_hand() -> None:
    weight, bias = np.ones((4, 2, 1)), np.array([10.0, 20.0, 30.0, 40.0])
    new_weight, new_bias = absorb_after(weight, bias, AFFINE)
    assert new_weight[:, 0, 0].tolist() == [2.0, -1.0, 0.0, 3.0]
    assert np.array_equal(new_weight[:, 0], new_weight[:, 1])
    assert new_bias.tolist() == [21.0, -18.0, 3.0, 124.0]
    assert np.all(weight == 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_weights_are_scaled_group_by_group(groups: int) -> None:
    weight = np.ones((8, 4 // groups, 3))
    new_weight, _ = absorb_after(weight, np.zeros(4), AFFINE, out_axis=1, groups=groups)
    expected = {
        1: [[2, -1, 0, 3]] * 8,
        2: [[2, -1]] * 4 + [[0, 3]] * 4,
        4: [[2]] * 2 + [[-1]] * 2 + [[0]] * 2 + [[3]] * 2,
    }
    assert new_weight[:, :, 0].tolist() == expected[groups]


@pytest.mark.parametrize(
    ("weight", "bias", "out_axis", "found"),
    [
        (np.ones((3, 2)), np.zeros(3), 0, 3),
        (np.ones((4, 2)), np.zeros(2), 1, 2),
        (np.ones((4, 2)), np.zeros(3), 0, 4),
    ],
)
def test_other_channels_are_refused(
    weight: NDArray[np.float64], bias: NDArray[np.float64], out_axis: int, found: int
) -> None:
    with pytest.raises(ValueError, match=f"it has 4 channels, the layer before it {found}"):
        absorb_after(weight, bias, AFFINE, out_axis=out_axis)
