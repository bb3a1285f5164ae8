"""Ten architectures of different families, each in small, and which of their batch norms can be folded.

Counted by hand, without merging branches and without rewriting borders. A producer whose output is also read
by someone else cannot absorb anything: with a scale of zero in every batch norm, nothing takes a map back.
"""

from __future__ import annotations

from tests.architectures.branches import Octave, RepVgg
from tests.architectures.mobile import InvertedResidual, Shuffle
from tests.architectures.plain import Mlp, OneD
from tests.architectures.residual import Dense, PreActivation, Residual
from tests.architectures.row import Architecture
from tests.architectures.unet import UNet

_IMAGE = (3, 12, 12)
_MERGEABLE = "the ReLU before it feeds two convolutions too; only a merged one could absorb it"
_SHARED = "what it reads is also read by layers that want it as it is, and a ReLU follows"

ARCHITECTURES: dict[str, Architecture] = {
    "residual": Architecture(Residual, _IMAGE, 9),
    "pre-activation": Architecture(
        PreActivation,
        _IMAGE,
        7,
        # c.bn1 and bn follow an Add of which nothing else is read; a.bn1 follows the stem alone.
        {
            "b.bn1": "the sum that it reads is also the skip, and a ReLU follows",
            "c.bn1": "one operand of the sum that it reads, the skip, is also read by b.bn1; a ReLU follows",
        },
    ),
    "dense": Architecture(
        Dense,
        _IMAGE,
        11,
        {
            "block1.layers.0.bn1": "it reads a max pool of a ReLU, and a ReLU follows",
            "block1.layers.1.bn1": _SHARED,
            "transition.0": _SHARED,
            "block2.layers.0.bn1": _SHARED,
            "block2.layers.1.bn1": _SHARED,
            "bn": _SHARED,
        },
    ),
    "inverted residual": Architecture(InvertedResidual, _IMAGE, 10),
    "shuffle": Architecture(Shuffle, _IMAGE, 12),
    "octave": Architecture(
        Octave,
        _IMAGE,
        8,
        {"reduction.bn": "one branch before it is a max pool of a ReLU, and a ReLU follows"},
    ),
    "U-net": Architecture(
        UNet,
        (1, 12, 12),
        12,
        # bn_join2 is followed by a convolution without padding and goes into that.
        {"bn_join1": "both branches before it end in a ReLU, and the convolution after it pads with zeros"},
    ),
    "1-D": Architecture(
        OneD,
        (6, 33),
        9,
        {
            "bn_time": "the linear layer before it has a bias for each position, not channel; a ReLU follows",
            "bn_coarse": "a max pool before it does not let negative scales through, and a ReLU follows",
        },
    ),
    "MLP": Architecture(
        Mlp,
        (12,),
        6,
        {
            "bn_inner": "what it reads is also the skip, and a ReLU follows",
            "bn_between": "it stands between a GELU and a sigmoid",
        },
    ),
    "RepVGG": Architecture(
        RepVgg,
        _IMAGE,
        10,
        {
            "blocks.1.identity": _MERGEABLE,
            "blocks.3.identity": _MERGEABLE,
        },
    ),
}
