from __future__ import annotations

import json
import math
from typing import Any

import pytest

from bn_deploy.errors import InputError
from bn_deploy.train.recipe import Recipe


def test_the_defaults_are_the_books() -> None:
    assert (Recipe().epochs, Recipe().batch, Recipe().lr) == (10, 256, 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"batch": 1}, "batch must be at least 2 to have a variance, not 1"),
        ({"statistics_images": 1}, "statistics_images must be at least 2 to have a variance, not 1"),
        ({"lr": 0.0}, "lr must be positive and finite in float32, not 0.0"),
        ({"lr": -1.0}, "lr must be positive and finite in float32, not -1.0"),
        ({"lr": math.inf}, "lr must be positive and finite in float32, not inf"),
        ({"lr": math.nan}, "lr must be positive and finite in float32, not nan"),
        ({"seed": -1}, "seed must be at least 0 and below 2 to the power 63, not -1"),
        ({"seed": 1 << 63}, f"seed must be at least 0 and below 2 to the power 63, not {1 << 63}"),
    ],
)
def test_a_value_out_of_range_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refusal:
        Recipe(**values)
    assert str(refusal.value) == said


def test_the_smallest_values_are_taken() -> None:
    recipe = Recipe(epochs=1, batch=2, lr=1e-9, seed=0, statistics_images=2)
    assert Recipe(**json.loads(json.dumps(recipe.to_json()))) == recipe
