"""Folding across a padded border, on request: the scale goes forwards (law 3), the shift stays behind.

Zeros that are padded are not shifted, so a shift cannot go into a convolution that pads. A scale can: zeros
stay zeros. And a batch norm is a shift and then a scale (law 4, read backwards). With Z for the padding,

    W Z(s x + t) = W Z(s (x + t / s)) = (W s) Z(x + t / s)

at every output, on the border too, whatever the kernel, strides, dilations, groups and pads are: all that is
asked is Z(s v) = s Z(v). It is x padded in each channel with -t / s, which the batch norm makes zero; ONNX's
Pad could write that only if all channels had the same. Likewise for other operators that count zeros: average
pooling, Pad, and the border of a transposed convolution.

The shift goes into what makes x, if that can take it (law 2), or else stays as one Add.
"""

from __future__ import annotations

import numpy as np

from bn_deploy.folding.graph.backward import backward
from bn_deploy.folding.graph.chains import Chain, Chains
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.forward import forward
from bn_deploy.folding.graph.network import Network
from bn_deploy.folding.graph.plan import Plan
from bn_deploy.folding.outcome import Refusal

_STOP_SHIFTS = frozenset({"Abs", "Clip", "Div", "LeakyRelu", "Mul", "PRelu", "ReduceL1", "ReduceL2", "Relu"})
"""What lets scales pass but no shift, with or without a border: to split a batch norm there wins nothing."""


def border_exact(network: Network, chains: Chains, chain: Chain) -> Plan:
    """The plan that lets all that reads `chain` absorb its scale, and what feeds it its shift, if it can.

    To be tried where the whole map goes nowhere.

    Raises:
        Refusal: there is none, with the reason.
    """
    shift, scale = _apart(chain)
    after = forward(network, chains, Chain(chain.links, scale))
    for op_type in after.passed:
        if op_type in _STOP_SHIFTS:
            raise Refusal(f"a shift does not pass a {op_type}, padded or not")
    plan = Plan(edits=after.edits, rewritten=after.rewritten, erased=after.erased[1:], nodes=after.nodes)
    plan.passed = after.passed
    try:
        before = backward(network, chains, Chain(chain.links, shift))
    except Refusal:
        plan.rewritten[Chain(chain.links, shift)] = shift
        plan.rules = [*after.rules, "border exact with an Add"]
    else:
        plan.edits = before.edits + after.edits
        plan.operands = before.operands
        plan.rewritten |= before.rewritten
        plan.erased += [chain, *before.erased[1:]]
        plan.rules = [*after.rules, "border exact", f"its shift by {', '.join(before.rules)}"]
        plan.passed = list(dict.fromkeys(after.passed + before.passed))
        plan.nodes = after.nodes + before.nodes
    plan.check(network)
    return plan


def _apart(chain: Chain) -> tuple[Field, Field]:
    """A shift, and the scale that after it makes the map of `chain`.

    Raises:
        Refusal: a channel has a shift but no scale, or one so small that the scaled weights would lose digits
            before the shift divided by it brings them back to size.
    """
    dtype, field = chain.result.dtype, chain.field
    if dtype is None or not field.shifts or not field.scales:
        raise Refusal("its scale alone does not go further")
    scale, shift = np.broadcast_arrays(field.scale, field.shift)
    sizes = np.abs(scale[shift != 0])
    if not sizes.all():
        raise Refusal("no padding stands for a channel that has a shift, but scale 0")
    if (sizes < np.sqrt(float(dtype.tiny))).any():
        raise Refusal(f"a shift cannot be divided by scale {sizes.min():.3g} in {dtype.name.lower()}")
    padding = np.divide(shift, scale, out=np.zeros(shift.shape), where=shift != 0)
    return Field(np.ones([1] * field.rank), padding), field.scaling
