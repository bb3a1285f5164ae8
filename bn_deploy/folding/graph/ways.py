"""Every operator that a map may pass through, and that no other may be passed."""

from __future__ import annotations

import onnx_ir as ir

from bn_deploy.folding.graph.computing import COMPUTING
from bn_deploy.folding.graph.links import link
from bn_deploy.folding.graph.moving import MOVING
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.parts import PARTS
from bn_deploy.folding.graph.passing import Passing, conjugating
from bn_deploy.folding.graph.pooling import POOLING
from bn_deploy.folding.graph.sampling import SAMPLING
from bn_deploy.folding.graph.sequences import SEQUENCES
from bn_deploy.folding.outcome import Refusal

WAYS: dict[str, Passing] = {**COMPUTING, **MOVING, **PARTS, **POOLING, **SAMPLING, **SEQUENCES}


def passing(network: Network, node: ir.Node) -> Passing:
    """The row for `node`.

    Raises:
        Refusal: there is none, or it has an attribute that is not understood.
    """
    if node in network.fixed and (found := link(network, node)) is not None:
        return conjugating(found.field, found.index)
    row = WAYS.get(node.op_type) if network.standard(node) else None
    if row is None:
        raise Refusal(f"{label(node)}, a {node.op_type}, neither absorbs an affine map nor lets it through")
    if unknown := set(node.attributes) - row.attributes:
        raise Refusal(f"attribute {min(unknown)} of {label(node)} is not known")
    return row
