"""How torch's operators that move every element, and compute nothing, are written down in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bn_deploy.folding.modules.aten import Row, first, scalar, value_of, whole, wholes
from bn_deploy.folding.modules.course import Op, Value
from bn_deploy.folding.modules.translate import Opaque, Translation


def _reshape(t: Translation, op: Op) -> None:
    """view, reshape, flatten, squeeze ...: what counts is the sizes before and after."""
    x = value_of(op)
    if len(first(op).shape) == len(x.shape) and first(op).shape == x.shape:
        t.node(op, "Identity", [t.read(x)])
        return
    # Sizes that depend on the batch are not constants: the shapes of both sides say what is known.
    known = [size if isinstance(size, int) else -1 for size in first(op).shape]
    t.node(op, "Reshape", [t.read(x), t.array(known)])


def _permuted(order: Any) -> Row:
    def row(t: Translation, op: Op) -> None:
        x = value_of(op)
        t.node(op, "Transpose", [t.read(x)], {"perm": order(op, len(x.shape))})

    return row


def _permute(op: Op, rank: int) -> list[int]:
    return [axis % rank for axis in wholes(op.arguments["dims"], 1)]


def _swap(first_name: str, second_name: str) -> Any:
    def order(op: Op, rank: int) -> list[int]:
        axes = list(range(rank))
        a, b = (whole(op.arguments[name]) % rank for name in (first_name, second_name))
        axes[a], axes[b] = axes[b], axes[a]
        return axes

    return order


def _reverse(op: Op, rank: int) -> list[int]:  # noqa: ARG001 - one of several orders
    return list(reversed(range(rank)))


def _last_two(op: Op, rank: int) -> list[int]:  # noqa: ARG001 - one of several orders
    return [*range(rank - 2), rank - 1, rank - 2]


def _moved(op: Op, rank: int) -> list[int]:
    """movedim: torch's own answer on a tensor whose sizes are its axes."""
    probe = torch.empty(tuple(range(1, rank + 1))).movedim(
        op.arguments["source"], op.arguments["destination"]
    )
    return [size - 1 for size in probe.shape]


def _expand(t: Translation, op: Op) -> None:
    shape = first(op).shape
    t.node(op, "Expand", [t.read(value_of(op)), t.array([s if isinstance(s, int) else 1 for s in shape])])


def _repeat(t: Translation, op: Op) -> None:
    x = value_of(op)
    repeats = wholes(op.arguments.get("repeats") or op.arguments["dims"], 1)
    if len(repeats) != len(x.shape):
        raise Opaque("other axes")
    t.node(op, "Tile", [t.read(x), t.array(repeats)])


def _shuffled(axes_before: Any, order: Sequence[int]) -> Row:
    """Reshape to finer axes, transpose them, reshape back."""

    def row(t: Translation, op: Op) -> None:
        x = value_of(op)
        finer = axes_before(op, x)
        turned = [finer[axis] for axis in order]
        middle = [t.between(op, x, shape) for shape in (finer, turned)]
        t.node(op, "Reshape", [t.read(x), t.array([0])], output=middle[0])
        t.node(op, "Transpose", [middle[0]], {"perm": list(order)}, middle[1])
        t.node(op, "Reshape", [middle[1], t.array([0])])

    return row


def _channel_groups(op: Op, x: Value) -> list[int | str]:
    groups = whole(op.arguments["groups"])
    return [x.shape[0], groups, whole(x.shape[1]) // groups, *_flat(x)]


def _flat(x: Value) -> list[int | str]:
    if len(x.shape) != 4:
        raise Opaque("not four axes")
    return list(x.shape[2:])


def _shuffle_up(op: Op, x: Value) -> list[int | str]:
    """pixel_shuffle: (N, C r r, H, W) -> (N, C, r, r, H, W)."""
    r = whole(op.arguments["upscale_factor"])
    return [x.shape[0], whole(x.shape[1]) // r**2, r, r, *_flat(x)]


def _shuffle_down(op: Op, x: Value) -> list[int | str]:
    """pixel_unshuffle: (N, C, H r, W r) -> (N, C, H, r, W, r)."""
    r = whole(op.arguments["downscale_factor"])
    height, width = (f"({n}) / {r}" if isinstance(n, str) else n // r for n in _flat(x))
    return [x.shape[0], whole(x.shape[1]), height, r, width, r]


_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(mode: str | None = None) -> Row:
    """Torch's names of modes are given as an argument, or else stand in the operator's name."""

    def row(t: Translation, op: Op) -> None:
        x, how = value_of(op), mode or _MODES[op.arguments["mode"]]
        pads = wholes(op.arguments["pad"] if "pad" in op.arguments else op.arguments["padding"], 1)
        rank, half = len(x.shape), len(pads) // 2
        # torch counts axes from the last, and each as (before, after).
        before = [0] * (rank - half) + [pads[2 * i] for i in reversed(range(half))]
        after = [0] * (rank - half) + [pads[2 * i + 1] for i in reversed(range(half))]
        inputs = [t.read(x), t.array(before + after)]
        if how == "constant":
            inputs.append(scalar(t, op.arguments["value"] or 0, x))
        t.node(op, "Pad", inputs, {"mode": how})

    return row


MOVING: dict[str, Row] = {
    **dict.fromkeys(
        (
            *("aten._unsafe_view", "aten.flatten", "aten.reshape", "aten.reshape_as", "aten.squeeze"),
            *("aten.unflatten", "aten.unsqueeze", "aten.view", "aten.view_as"),
        ),
        _reshape,
    ),
    **dict.fromkeys(("aten.expand", "aten.expand_as", "aten.broadcast_to"), _expand),
    **{f"aten.reflection_pad{n}d": _pad("reflect") for n in (1, 2, 3)},
    **{f"aten.replication_pad{n}d": _pad("edge") for n in (1, 2, 3)},
    "aten.T": _permuted(_reverse),
    "aten.channel_shuffle": _shuffled(_channel_groups, (0, 2, 1, 3, 4)),
    "aten.constant_pad_nd": _pad("constant"),
    "aten.mH": _permuted(_last_two),
    "aten.mT": _permuted(_last_two),
    "aten.movedim": _permuted(_moved),
    "aten.pad": _pad(),
    "aten.permute": _permuted(_permute),
    "aten.pixel_shuffle": _shuffled(_shuffle_up, (0, 1, 4, 2, 5, 3)),
    "aten.pixel_unshuffle": _shuffled(_shuffle_down, (0, 1, 3, 5, 2, 4)),
    "aten.repeat": _repeat,
    "aten.swapaxes": _permuted(_swap("axis0", "axis1")),
    "aten.swapdims": _permuted(_swap("dim0", "dim1")),
    "aten.t": _permuted(_reverse),
    "aten.tile": _repeat,
    "aten.transpose": _permuted(_swap("dim0", "dim1")),
}
"""Operators that move every element to another place."""
