"""What an engine says of the precision it was built in, where one can be asked: on a GPU that it runs on."""

from __future__ import annotations

from bn_deploy.engine import driver, precision
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.spec import Precision


def of_plan(trt: TensorRT, plan: bytes, capabilities: tuple[str, ...]) -> dict[Precision, int] | None:
    """How many layers of an engine that was just built compute in each format; None if it cannot be asked.

    Without a driver a Runtime ends the process, so the driver is asked first.

    Args:
        trt: what built it.
        plan: the plan.
        capabilities: the compute capabilities that it runs on.
    """
    gpu = driver.find_gpu()
    if not isinstance(gpu, Gpu) or not driver.covers(capabilities, gpu):
        return None
    runtime = trt.module.Runtime(trt.logger)
    if trt.has_host_code_switch:
        runtime.engine_host_code_allowed = True  # this process built it
    engine = runtime.deserialize_cuda_engine(plan)
    return None if engine is None else precision.census_of_engine(engine, trt.module)
