"""A TensorRT made of plain Python, with exactly the names that one real version has.

`trt_names.json` lists them, read from the real bindings of each version (the property `name` was added by
hand: the listing leaves it out everywhere). A name that a version lacks is an AttributeError here, too, so a
branch that is missing in the package fails a test.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bn_deploy.engine.api import TensorRT

NAMES: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("trt_names.json").read_text())
VERSIONS = tuple(NAMES)


@dataclass
class World:
    """What the fake is to see and to answer, and what was asked of it.

    `tensors` is (name, shape, DataType) of the inputs and of the outputs, `layers` the types of the layers'
    outputs; `errors` is what the parser finds, `said` what is logged, with its severity.
    """

    inputs: list[tuple[str, tuple[int, ...], str]] = field(
        default_factory=lambda: [("image", (-1, 1, 8, 8), "FLOAT")]
    )
    outputs: list[tuple[str, tuple[int, ...], str]] = field(
        default_factory=lambda: [("logits", (-1, 5), "FLOAT")]
    )
    layers: list[str] = field(default_factory=lambda: ["FLOAT", "INT32"])
    errors: list[dict[str, Any]] = field(default_factory=list)
    plan: bytes | None = b"a plan"
    profile: int = 0
    said: list[tuple[str, str]] = field(default_factory=list)
    starts: bool = True
    network_flags: int | None = None
    shapes: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    config: Any = None


class Strict:
    """Refuses to be given an attribute that its class does not have, as the real bindings do."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        object.__setattr__(self, name, value)


def limited(cls: type, names: list[str]) -> Any:
    """`cls` without the public names that are not in `names`."""
    skip = {"__dict__", "__weakref__", "__module__", "__doc__"}
    kept = {
        name: value
        for name, value in vars(cls).items()
        if name not in skip and (name.startswith("_") or name in names)
    }
    return type(cls.__name__, (Strict,), kept)


def make(version: str, asked: World | None = None) -> TensorRT:
    """The fake in the shape of `version`; what it is asked ends in `asked`."""
    world = asked or World()
    names = NAMES[version]
    members = {name: IntEnum(name, value) for name, value in names.items() if isinstance(value, dict)}
    module = SimpleNamespace(__version__=version, **members)

    class ILogger:
        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class ITensor:
        name = ""
        shape: tuple[int, ...] = ()
        dtype: Any = None

        def __init__(self, name: str, shape: tuple[int, ...], kind: str) -> None:
            vars(self).update(name=name, shape=shape, dtype=module.DataType[kind])

    class ILayer:
        num_outputs = 2

        def __init__(self, kind: str) -> None:
            self._kind = kind

        def get_output(self, index: int) -> Any:
            return module.ITensor("", (), self._kind) if index == 0 else None

    class INetworkDefinition:
        num_inputs = num_outputs = num_layers = 0

        def _fill(self) -> None:
            self.num_inputs, self.num_outputs = len(world.inputs), len(world.outputs)
            self.num_layers = len(world.layers)

        def get_input(self, index: int) -> Any:
            return module.ITensor(*world.inputs[index])

        def get_output(self, index: int) -> Any:
            return module.ITensor(*world.outputs[index])

        def get_layer(self, index: int) -> Any:
            return module.ILayer(world.layers[index])

    class ParserError:
        def __init__(self, values: dict[str, Any]) -> None:
            self._values = values

        def desc(self) -> str:
            return str(self._values["desc"])

        def code(self) -> Any:
            return SimpleNamespace(name=self._values.get("code", "INVALID_NODE"))

        def node(self) -> int:
            return int(self._values.get("node", -1))

        def node_name(self) -> str:
            return str(self._values.get("name", ""))

        def node_operator(self) -> str:
            return str(self._values.get("operator", ""))

    class OnnxParser:
        num_errors = 0

        def __init__(self, network: Any, logger: Any) -> None:
            self._network = network

        def parse(self, model: bytes) -> bool:
            self._network._fill()
            self.num_errors = len(world.errors)
            return not world.errors

        def get_error(self, index: int) -> Any:
            return module.ParserError(world.errors[index])

    class IOptimizationProfile:
        def set_shape(self, input: str, *shapes: tuple[int, ...]) -> None:  # noqa: A002 - TensorRT's name
            world.shapes[input] = shapes

    class IBuilderConfig:
        builder_optimization_level = 3
        profiling_verbosity: Any = None

        def __init__(self) -> None:
            self._flags = {module.BuilderFlag.__members__["TF32"]}
            self._limits: dict[Any, int] = {}

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag)

        def get_flag(self, flag: Any) -> bool:
            return flag in self._flags

        def set_memory_pool_limit(self, pool: Any, size: int) -> None:
            self._limits[pool] = size

        def get_memory_pool_limit(self, pool: Any) -> int:
            return self._limits.get(pool, 1 << 30)

        def add_optimization_profile(self, profile: Any) -> int:
            return world.profile

    class Builder:
        def __init__(self, logger: Any) -> None:
            for severity, text in world.said:
                logger.log(SimpleNamespace(name=severity), text)
            if not world.starts:
                raise TypeError("pybind11::init(): factory function returned nullptr")

        def create_network(self, flags: int = 0) -> Any:
            world.network_flags = flags
            return module.INetworkDefinition()

        def create_builder_config(self) -> Any:
            world.config = module.IBuilderConfig()
            return world.config

        def create_optimization_profile(self) -> Any:
            return module.IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes | None:
            return world.plan

    classes = (ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IOptimizationProfile)
    for cls in (*classes, IBuilderConfig, Builder):
        setattr(module, cls.__name__, limited(cls, names[cls.__name__]))
    module.ILogger = ILogger
    module.Runtime = None  # nothing that builds may touch it
    return TensorRT("tensorrt", module)
