"""A worker process with a GPU and a TensorRT that are fake: `python -m tests.backends.trt_worker`."""

from __future__ import annotations

import json
import os
from typing import Any

from bn_deploy.pipeline import worker
from tests.backends.fake_engine import Engine, HostMemory
from tests.backends.trt_place import Put, pretend

TOLD = "BN_DEPLOY_FAKE_TENSORRT"
"""The variable that says what they are like: JSON, see `as_told`."""


def as_told(put: Put, told: dict[str, Any]) -> None:
    """Puts the fakes in place.

    Args:
        put: sets an attribute of a module.
        told: "version" of TensorRT; "refuses_graphs", why nothing is recorded; "engine", fields of Engine.
    """
    pretend(
        put, Engine(**told["engine"]), lambda: HostMemory(told["refuses_graphs"]), version=told["version"]
    )


if __name__ == "__main__":
    as_told(setattr, json.loads(os.environ[TOLD]))
    raise SystemExit(worker.main())
