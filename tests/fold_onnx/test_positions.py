"""Parts that are picked by number, and tensors that are split to a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bn_deploy.folding.graph import parts, sequences
from tests.fold_onnx.graphs import BATCH, Net, assert_folds, assert_keeps, judged

IMAGE = (BATCH, 5, 6, 6)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def turned(net: Net, y: str) -> str:
    """(N, C, H, W) to (C, N, H, W), or back."""
    return str(net.op("Transpose", y, perm=[1, 0, 2, 3]))


def by_number(net: Net, y: str, *numbers: int) -> str:
    """Channels by their numbers, as the newer of torch's exporters writes `y[:, index]`."""
    positions = net.const(np.array(numbers).reshape(-1, 1))
    return turned(net, str(net.op("GatherND", turned(net, y), positions)))


def sequence(net: Net, y: str, sizes: Any, place: int, **attributes: Any) -> str:
    given = [] if sizes is None else [net.const(np.array(sizes))]
    split = net.op("SplitToSequence", y, *given, **attributes)
    return str(net.op("SequenceAt", split, net.const(np.array(place))))


PARTS: dict[str, tuple[int, Callable[[Net, str], str]]] = {
    # channels of the batch norm, and what lies between five channels and it
    "by number": (3, lambda n, y: by_number(n, y, 4, 0, 2)),
    "from behind": (3, lambda n, y: by_number(n, y, -1, 0, -3)),
    "rows": (5, lambda n, y: n.op("GatherND", y, n.const(np.array([[1], [0], [1]])))),
    "places": (
        5,
        lambda n, y: n.op(
            "Unsqueeze",
            n.op("GatherND", n.op("Transpose", y, perm=[2, 0, 1, 3]), n.const(np.array([3]))),
            index(n, 3),
        ),
    ),
    "the same part of each row": (
        5,
        lambda n, y: n.op(
            "Transpose",
            n.op(
                "GatherND",
                n.op("Transpose", y, perm=[0, 2, 1, 3]),
                n.const(np.array([[[2], [1]], [[0], [5]]])),
                batch_dims=1,
            ),
            perm=[0, 2, 1, 3],
        ),
    ),
    "even parts, the first": (2, lambda n, y: sequence(n, y, 2, 0, axis=1)),
    "even parts, the last": (1, lambda n, y: sequence(n, y, 2, -1, axis=1)),
    "uneven parts": (3, lambda n, y: sequence(n, y, [1, 3, 1], 1, axis=-3)),
    "parts of another axis": (5, lambda n, y: sequence(n, y, 4, 0, axis=2)),
}


@pytest.mark.parametrize("case", PARTS)
def test_a_map_passes(case: str) -> None:
    channels, between = PARTS[case]
    net = Net(IMAGE)
    assert_folds(net, net.op("Tanh", net.bn(between(net, net.conv("x", 5, 5)), channels)))


@pytest.mark.parametrize("case", PARTS)
def test_it_passes_the_other_way(case: str) -> None:
    channels, between = PARTS[case]
    net = Net(IMAGE)
    y = between(net, net.bn("x", 5))
    report = assert_folds(net, net.op("Tanh", net.conv(y, channels, 3)))
    assert report.folded[0].rule.startswith("bn-conv through")


def test_two_parts_of_one_sequence_each_have_a_batch_norm() -> None:
    net = Net(IMAGE)
    split = net.op("SplitToSequence", net.conv("x", 5, 5), index(net, 2, 3), axis=1)
    taken = [net.op("SequenceAt", split, net.const(np.array(place))) for place in (0, 1)]
    outputs = [net.op("Tanh", net.bn(part, size)) for part, size in zip(taken, (2, 3), strict=True)]
    assert_folds(net, *outputs)


def unknown_place(net: Net, y: str) -> str:
    place = net.op("Squeeze", net.op("Slice", net.op("Shape", "x1"), index(net, 0), index(net, 1)))
    split = net.op("SplitToSequence", y, net.const(np.array([1, 2, 2])), axis=1)
    return str(net.op("SequenceAt", split, place))


def made_of_parts(net: Net, y: str) -> str:
    made = net.op("SequenceInsert", net.op("SequenceConstruct", "x"), y, net.const(np.array(0)))
    return str(net.op("SequenceAt", made, net.const(np.array(0))))


def two_at_once(net: Net, y: str) -> str:
    """Rows and channels picked together."""
    picked = net.op("GatherND", y, net.const(np.array([[0, 1], [1, 2], [0, 3]])))
    return str(net.op("Unsqueeze", picked, index(net, 0)))


REFUSED: dict[str, tuple[int, Callable[[Net, str], str], str]] = {
    "picked twice": (3, lambda n, y: by_number(n, y, 1, 0, 1), "the same channel is used twice"),
    "rows and channels": (3, two_at_once, "what n_gathernd1 takes is not known"),
    "a place that is not known": (2, unknown_place, "takes is not known"),
    "a sequence from elsewhere": (5, made_of_parts, "takes a part of is not known"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kept_with_the_reason(case: str) -> None:
    channels, between, reason = REFUSED[case]
    net = Net(IMAGE, ("M", 2))
    assert_keeps(net, net.op("Tanh", net.bn(between(net, net.conv("x", 5, 5)), channels)), because=reason)


def shifted(*given: Any) -> Any:
    axes, new, positions = PICKED(*given)
    return axes, new, None if positions is None else np.roll(positions, 1)


PICKED, TAKEN = parts._picked, sequences._taken


def beside(*given: Any) -> Any:
    axis, size, part = TAKEN(*given)
    return axis, size, slice(part.start - 1, part.stop - 1) if part.start else slice(1, part.stop + 1)


@pytest.mark.parametrize(
    ("home", "name", "mutant", "case"),
    [
        (parts, "_picked", shifted, "by number"),
        (sequences, "_taken", beside, "uneven parts"),
        (sequences, "_taken", beside, "even parts, the first"),
    ],
)
def test_a_wrong_position_is_caught(
    monkeypatch: pytest.MonkeyPatch, home: object, name: str, mutant: Any, case: str
) -> None:
    channels, between = PARTS[case]
    net = Net(IMAGE)
    y = net.op("Tanh", net.bn(between(net, net.conv("x", 5, 5)), channels))
    assert judged(net, y)
    monkeypatch.setattr(home, name, mutant)
    assert not judged(net, y)
