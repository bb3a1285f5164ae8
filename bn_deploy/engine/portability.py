"""Whether a plan can run here, told from its side-car before TensorRT is touched."""

from __future__ import annotations

from bn_deploy.engine.api import TensorRT, architecture, operating_system
from bn_deploy.engine.driver import Gpu, covers
from bn_deploy.engine.sidecar import REBUILD, Sidecar


def mismatch(sidecar: Sidecar, trt: TensorRT, gpu: Gpu) -> str | None:
    """Why the plan cannot run here, told before TensorRT is touched; None if nothing speaks against it."""
    pairs = [(sidecar.architecture, architecture())]
    if sidecar.tensorrt == trt.runs and not (trt.builds or sidecar.version_compatible):
        return f"is not version-compatible, and {trt} runs no other; build it with --version-compatible"
    if not (sidecar.tensorrt == trt.runs and _runs_on(sidecar, trt.version)):
        pairs.insert(0, (f"{sidecar.tensorrt} {sidecar.tensorrt_version}", f"{trt.name} {trt.version}"))
    for built, here in pairs:
        if built != here:
            return f"was built for {built}, and this is {here}; {REBUILD} here"
    if operating_system() not in sidecar.systems:
        return (
            f"was built for {' or '.join(sidecar.systems)}, and this is {operating_system()}; {REBUILD} here"
        )
    if not covers(sidecar.compute_capabilities, gpu):
        built = ", ".join(sidecar.compute_capabilities)
        return f"was built for the compute capabilities {built}, and this is {gpu}; {REBUILD} for it"
    return None


def _runs_on(sidecar: Sidecar, version: str) -> bool:
    """Whether a TensorRT of that version loads the plan: the very one, or a later one that it was built for.

    Such plans run on later minors of the same major, 8.6 and later ones on 10, and 10's on 11 (NVIDIA,
    "Version Compatibility").
    """
    if sidecar.tensorrt_version == version:
        return True
    try:
        built, here = (tuple(map(int, text.split("."))) for text in (sidecar.tensorrt_version, version))
    except ValueError:
        return False
    next_major = {8: 10, 10: 11}.get(built[0])
    return sidecar.version_compatible and built < here and here[0] in {built[0], next_major}
