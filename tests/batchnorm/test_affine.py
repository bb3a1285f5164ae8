from __future__ import annotations

import numpy as np
import pytest

from bn_deploy.batchnorm.affine import Affine


def test_a_map_is_applied_along_its_axis() -> None:
    affine = Affine(np.array([2.0, -1.0]), np.array([0.5, 3.0]))
    x = np.arange(12.0).reshape(3, 2, 2)
    assert np.array_equal(affine(x)[:, 1], -x[:, 1] + 3)
    assert np.array_equal(affine(x, axis=2)[:, :, 0], 2 * x[:, :, 0] + 0.5)


def test_one_map_after_another() -> None:
    both = Affine(np.array([2.0]), np.array([1.0])).then(Affine(np.array([3.0]), np.array([-4.0])))
    assert (both.scale.item(), both.shift.item()) == (6.0, -1.0)


def test_identity_changes_nothing() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    assert np.array_equal(Affine.identity(3)(x), x)
    assert Affine.identity(3).channels == 3


def test_numbers_of_any_type_become_float64() -> None:
    affine = Affine(np.array([1, 2], dtype=np.float16), np.array([1, 2], dtype=np.int8))
    assert affine.scale.dtype == affine.shift.dtype == np.float64


@pytest.mark.parametrize(
    ("scale", "shift", "text"),
    [
        ([1.0], [1.0, 2.0], "1 scales but 2 shifts"),
        ([], [], "non-empty"),
        ([[1.0]], [1.0], "vector"),
        ([np.nan], [1.0], "scale is not finite"),
        ([1.0], [np.inf], "shift is not finite"),
    ],
)
def test_what_is_no_map_is_refused(scale: list[float], shift: list[float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Affine(np.array(scale), np.array(shift))


def test_maps_over_other_channels_do_not_compose() -> None:
    with pytest.raises(ValueError, match="2 channels cannot be followed by 3"):
        Affine.identity(2).then(Affine.identity(3))
