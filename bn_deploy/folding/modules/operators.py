"""Every operator of torch of which more is known than that it depends on its inputs."""

from __future__ import annotations

from bn_deploy.folding.modules.aten import Row
from bn_deploy.folding.modules.aten_computing import COMPUTING
from bn_deploy.folding.modules.aten_linear import LINEAR
from bn_deploy.folding.modules.aten_moving import MOVING
from bn_deploy.folding.modules.aten_parts import PARTS
from bn_deploy.folding.modules.translate import plain

ATEN: dict[str, Row] = {**LINEAR, **MOVING, **PARTS, **COMPUTING}


def whole(name: str) -> bool:
    """Whether an operator is understood as it is; others are taken apart where torch can."""
    return plain(name) in ATEN
