"""fold() on networks that are drawn from all the operators that it knows."""

from __future__ import annotations

import numpy as np
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import output, random_input
from tests.fold.checking import assert_faithful
from tests.fold.drawn import CHANNELS, HEADS, SIZE, STEPS, network

FAST = (Phase.explicit, Phase.generate)
"""Without making failures smaller: each try is a fold."""


@settings(deadline=None, derandomize=True, max_examples=30, database=None, phases=FAST)
@given(
    st.lists(st.sampled_from(list(STEPS)), min_size=2, max_size=7),
    st.sampled_from(list(HEADS)),
    st.integers(0, 99),
)
def test_drawn_networks_keep_their_function(names: list[str], head: str, seed: int) -> None:
    drawn = network(names, head, seed)
    x = random_input(2, CHANNELS, SIZE, SIZE, seed=seed)
    result = assert_faithful(drawn, x, example_inputs=x)
    other = random_input(3, CHANNELS, SIZE, SIZE, seed=seed + 1)
    expected = output(drawn, other)
    gap = np.abs(output(result.module, other) - expected).max()
    assert gap <= np.sqrt(np.finfo(np.float64).eps) * np.abs(expected).max()
    again = fold(result.module, x)
    assert not again.report.folded, f"{result.report} {again.report}"
    assert np.array_equal(output(again.module, other), output(result.module, other))
