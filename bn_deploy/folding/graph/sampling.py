"""Operators that read between the elements of a channel: interpolation."""

from __future__ import annotations

import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer, ints, text
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Passing, only_scale, same_both_ways, uniform
from bn_deploy.folding.outcome import Refusal

_PLACES = frozenset(
    {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}
    | {"tf_half_pixel_for_nn"}
)
"""Where outputs lie among inputs, without one that lies outside and gets a constant (tf_crop_and_resize)."""


def _resized(network: Network, node: ir.Node, field: Field) -> None:
    """Resize and Upsample: the coefficients of each output add up to one.

    So they do for every mode: outside, the edge counts again, or what is inside is scaled up
    (exclude_outside, antialias; see ONNX's specification of Resize).
    """
    mode = text(node, "mode", "nearest")
    place = text(node, "coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear", "cubic") or place not in _PLACES:
        raise Refusal(f"{label(node)} resizes in mode {mode}, {place}")
    rank, given = field.rank, ints(node, "axes")
    axes = list(range(rank)) if given is None else [axis % rank for axis in given]
    for position, axis in enumerate(axes):
        if axis in field.varying and not _keeps(network, node, position, axis):
            raise Refusal(f"{label(node)} mixes elements that get different scales")


def _keeps(network: Network, node: ir.Node, position: int, axis: int) -> bool:
    """Whether a resize leaves `axis` alone: `position` is its place in the sizes or scales."""
    before, after = network.dims(node.inputs[0])[axis], network.dims(node.outputs[0])[axis]
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    moved = text(node, "coordinate_transformation_mode", "half_pixel") == "tf_half_pixel_for_nn"
    if before != after or not isinstance(before, int) or policy != "stretch" or moved:
        return False
    attribute = node.attributes.get("scales")
    if attribute is not None:
        return attribute.as_floats()[position] == 1
    scales = node.inputs[1 if node.op_type == "Upsample" or network.opset < 11 else 2]
    if scales is None or not scales.name:
        return len(node.inputs) == 4  # by sizes, which are equal
    array = network.constants.real(scales)
    if array is not None and array.size == 0:
        return len(node.inputs) == 4
    return array is not None and array.reshape(-1)[position] == 1


def _grid_sampled(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """GridSample, (N, C, ...): coefficients add up to one, but what lies outside may count as zero."""
    uniform(field, frozenset(range(2, field.rank)), node)
    if text(node, "padding_mode", "zeros") not in ("border", "reflection"):
        only_scale(field, node)
    if integer(node, "align_corners", 0) not in (0, 1):
        raise Refusal(f"{label(node)} is used in an unusual way")


_RESIZE = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
    *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
)

SAMPLING: dict[str, Passing] = {
    "GridSample": same_both_ways(_grid_sampled, "align_corners", "mode", "padding_mode"),
    "Resize": same_both_ways(_resized, *_RESIZE),
    "Upsample": same_both_ways(_resized, "mode", "scales"),
}
"""Operators that interpolate."""
