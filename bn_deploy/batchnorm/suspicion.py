"""Why a layer is no affine map per channel: what else of its surroundings has a part in its output."""

from __future__ import annotations

import numpy as np

from bn_deploy.batchnorm.holdings import Array, Unlike
from bn_deploy.batchnorm.proof import Layout
from bn_deploy.batchnorm.trial import Trial


def cause(trial: Trial, layout: Layout, channels: int) -> str | None:
    """The first thing that is found to matter besides the element itself, or None.

    One thing at a time is changed about an ordinary input, and one number of the output is watched: the
    first element of the first sample.
    """
    generator = np.random.default_rng(3)
    x = generator.standard_normal(layout.shape(channels, 4))
    other = generator.standard_normal(x.shape)
    first = (0,) * x.ndim
    try:
        y = trial(x)
        if not np.array_equal(trial(x), y, equal_nan=True):
            return "in eval mode it gives something else when it is called again"
        for changed, reason in _changes(x, other, layout):
            if not np.array_equal(trial(changed)[first], y[first], equal_nan=True):
                return reason
    except Unlike:
        pass  # the failure has its own reason
    return None


def _changes(x: Array, other: Array, layout: Layout) -> list[tuple[Array, str]]:
    """Inputs with the watched element as in x and others elsewhere, each with what it means if that shows."""
    first = (0,) * x.ndim
    samples, places, rest = other.copy(), x.copy(), x.copy()
    samples[0] = x[0]
    same_channel = tuple(0 if axis in (0, layout.axis) else slice(None) for axis in range(x.ndim))
    places[same_channel] = other[same_channel]
    rest[0] = other[0]
    places[first] = rest[first] = x[first]
    return [
        (samples, "in eval mode it computes batch statistics: other samples change its output"),
        (
            places,
            "in eval mode its output depends on other places of the channel, as an instance norm's does",
        ),
        (rest, "in eval mode its output depends on other channels of the sample, as a layer norm's does"),
    ]
