"""Law 3 by hand, and what a reshape does to axes, against numpy on every element."""

from __future__ import annotations

import numpy as np
import pytest

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.absorb import absorb_before
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.layout import Dims, runs
from bn_deploy.folding.outcome import Refusal

AFFINE = Affine(np.array([2.0, -1.0, 0.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))


def test_law_3_by_hand() -> None:
    weight, bias = np.ones((2, 4)), np.array([10.0, 20.0])
    new_weight, new_bias = absorb_before(weight, bias, AFFINE)
    assert new_weight.tolist() == [[2, -1, 0, 3]] * 2
    assert new_bias.tolist() == [20, 30]
    assert np.all(weight == 1)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("in_axis", [0, 1])
def test_law_3_in_groups(groups: int, in_axis: int) -> None:
    random = np.random.default_rng(0)
    shape = (8, 4 // groups, 3) if in_axis == 1 else (4, 8 // groups, 3)
    weight, bias = random.standard_normal(shape), random.standard_normal(8)
    # As a dense (out, in) matrix of what one output adds up of each input channel.
    dense = np.zeros((8, 4))
    for group in range(groups):
        outs, ins = (
            slice(group * 8 // groups, (group + 1) * 8 // groups),
            slice(group * 4 // groups, (group + 1) * 4 // groups),
        )
        part = weight[outs] if in_axis == 1 else weight[ins].swapaxes(0, 1)
        dense[outs, ins] = part.sum(axis=2)
    new_weight, new_bias = absorb_before(weight, bias, AFFINE, in_axis=in_axis, groups=groups)
    assert new_weight.shape == weight.shape
    assert np.allclose(new_bias, bias + dense @ AFFINE.shift)
    x = random.standard_normal(4)
    after = np.zeros((8, 4))
    for group in range(groups):
        outs, ins = (
            slice(group * 8 // groups, (group + 1) * 8 // groups),
            slice(group * 4 // groups, (group + 1) * 4 // groups),
        )
        part = new_weight[outs] if in_axis == 1 else new_weight[ins].swapaxes(0, 1)
        after[outs, ins] = part.sum(axis=2)
    assert np.allclose(after @ x + new_bias, dense @ (AFFINE.scale * x + AFFINE.shift) + bias)


def test_law_3_refuses_other_channels() -> None:
    with pytest.raises(ValueError, match="it has 4 channels, the layer after it takes 3"):
        absorb_before(np.ones((2, 3)), np.zeros(2), AFFINE)


RESHAPES: list[tuple[Dims, Dims, Dims, Dims]] = [
    # sizes before and after as a file knows them, and as they are
    (("N", 4, 2, 3), ("N", 24), (5, 4, 2, 3), (5, 24)),
    (("N", 4, 2, 3), (None, 24), (5, 4, 2, 3), (5, 24)),
    (("N", 4, "H", "W"), ("N", 2, 2, "H", "W"), (5, 4, 2, 3), (5, 2, 2, 2, 3)),
    (("N", 4, "H", "W"), ("N", 4, None), (5, 4, 2, 3), (5, 4, 6)),
    (("N", 4, 1, 1), ("N", 4), (5, 4, 1, 1), (5, 4)),
    ((None, 4, 1), (None, 1, 4, 1, 1), (5, 4, 1), (5, 1, 4, 1, 1)),
    ((6, 4), (2, 3, 4), (6, 4), (2, 3, 4)),
    ((4, 6), (6, 4), (4, 6), (6, 4)),
    ((None, 4), (None, 4), (5, 4), (5, 4)),
    (("A", "B", 4), (None, 4), (5, 3, 4), (15, 4)),
]


@pytest.mark.parametrize(("before", "after", "real_before", "real_after"), RESHAPES)
def test_a_field_is_reshaped_like_its_tensor(
    before: Dims, after: Dims, real_before: Dims, real_after: Dims
) -> None:
    random = np.random.default_rng(1)
    sizes = [size if isinstance(size, int) else 1 for size in before]
    field = Field(random.standard_normal(sizes), random.standard_normal([1] * len(sizes)))
    moved = field.reshaped(before, after)
    whole = np.broadcast_to(field.scale, real_before).reshape(real_after)  # type: ignore[arg-type]
    assert np.array_equal(np.broadcast_to(moved.scale, whole.shape), whole)
    back = moved.reshaped(after, before)
    assert back.same(field)


@pytest.mark.parametrize(
    ("before", "after"),
    [((None, 4, None), (None, 2, None)), (("N", 4, "H"), ("H", 4, "N")), ((4, None), (None, 4))],
)
def test_sizes_that_are_not_known_are_not_guessed(before: Dims, after: Dims) -> None:
    sizes = [size if isinstance(size, int) else 1 for size in before]
    field = Field(np.arange(np.prod(sizes), dtype=float).reshape(sizes), np.zeros([1] * len(sizes)))
    with pytest.raises(Refusal, match="depends on unknown sizes"):
        field.reshaped(before, after)


def test_an_empty_tensor_shows_nothing() -> None:
    with pytest.raises(Refusal, match="empty"):
        runs((0, 4), (4, 0))


def test_two_maps_in_one_place() -> None:
    field = Field(np.array([[1.0, 2.0]]), np.zeros((1, 1)))
    with pytest.raises(Refusal, match="used twice"):
        field.put(1, 3, np.array([1, 1]))


def test_numbers_that_are_not_finite() -> None:
    with pytest.raises(Refusal, match="its scale is not finite"):
        Field(np.array([np.inf]), np.zeros(1))
    with pytest.raises(Refusal, match="its shift is not finite"), np.errstate(all="ignore"):
        Field(np.array([1.0]), np.array([1e200])).then(Field(np.array([1e200]), np.zeros(1)))
