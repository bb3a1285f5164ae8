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
RTX = "rtx 1.7.1.116"
VERSIONS = tuple(name for name in NAMES if name != RTX)


@dataclass
class World:
    """What the fake is to see and to answer, and what was asked of it.

    `inputs` and `outputs` are (name, shape, DataType), `layers` what each layer gives out, or (LayerType,
    that type, which layers give its inputs, its own name); `errors` is what the parser finds, `said` what is
    logged, with its severity. `parts` are the nodes of the subgraphs that the parser takes.
    `phases` is what the builder tells a progress monitor, `timed` what it adds to a timing cache, whose first
    line is `device`. `inspected` is what the engine says of itself.
    """

    inputs: list[tuple[str, tuple[int, ...], str]] = field(
        default_factory=lambda: [("image", (-1, 1, 8, 8), "FLOAT")]
    )
    outputs: list[tuple[str, tuple[int, ...], str]] = field(
        default_factory=lambda: [("logits", (-1, 5), "FLOAT")]
    )
    layers: list[Any] = field(default_factory=lambda: ["FLOAT", "INT32"])
    errors: list[dict[str, Any]] = field(default_factory=list)
    plan: bytes | None = b"a plan"
    profile: int = 0
    said: list[tuple[str, str]] = field(default_factory=list)
    starts: bool = True
    network_flags: int | None = None
    shapes: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    profiles: int = 0
    config: Any = None
    parts: list[list[int]] = field(default_factory=lambda: [[0, 1, 2, 3]])
    phases: list[tuple[str, str | None, int]] = field(default_factory=list)
    told: list[bool] = field(default_factory=list)
    device: str = "this device"
    timed: tuple[str, ...] = ()
    inspected: str = "{}"
    host_code_allowed: bool = False
    targets: dict[int, Any] = field(default_factory=dict)


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
        num_inputs = 0
        type: Any = None

        def __init__(self, layer: Any) -> None:
            whole: Any = ("ELEMENTWISE", layer, (), "") if isinstance(layer, str) else layer
            kind, dtype, inputs, name = whole
            self._dtype, self._inputs, self._name = dtype, inputs, name
            vars(self).update(type=module.LayerType[kind], num_inputs=len(self._inputs) + 1)

        def get_input(self, index: int) -> Any:
            return module.ITensor(self._inputs[index], (), "FLOAT") if index < len(self._inputs) else None

        def get_output(self, index: int) -> Any:
            return module.ITensor(self._name, (), self._dtype) if index == 0 else None

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

        def supports_model(self, model: bytes) -> tuple[bool, list[tuple[list[int], bool]]]:
            return self.parse(model), [(part, not world.errors) for part in world.parts]

        num_subgraphs = 0

        def supports_model_v2(self, model: bytes) -> bool:
            self.num_subgraphs = len(world.parts)
            return self.parse(model)

        def get_subgraph_nodes(self, index: int) -> list[int]:
            return world.parts[index]

        def get_error(self, index: int) -> Any:
            return module.ParserError(world.errors[index])

    class IOptimizationProfile:
        def set_shape(self, input: str, *shapes: tuple[int, ...]) -> None:  # noqa: A002 - TensorRT's name
            world.shapes[input] = shapes

    class IBuilderConfig:
        builder_optimization_level = 3
        profiling_verbosity: Any = None
        hardware_compatibility_level: Any = getattr(members.get("HardwareCompatibilityLevel"), "NONE", None)
        progress_monitor: Any = None
        num_compute_capabilities = 0

        def __init__(self) -> None:
            self._flags = {module.BuilderFlag.__members__["TF32"]}
            self._limits: dict[Any, int] = {}
            self._cache: Any = None

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
            world.profiles += 1
            return world.profile

        def set_compute_capability(self, capability: Any, index: int) -> bool:
            world.targets[index] = capability
            return True

        def create_timing_cache(self, data: bytes) -> Any:
            lines = data.decode().split("\n") if data else [world.device]
            return None if "broken" in lines else module.ITimingCache(lines[0], set(lines[1:]))

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            if cache._device != world.device:
                return False
            self._cache = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._cache

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
            if config._cache is not None:
                config._cache._entries.update(world.timed)
            if getattr(config, "progress_monitor", None) is not None:
                for name, parent, steps in world.phases:
                    config.progress_monitor.phase_start(name, parent, steps)
                    world.told += [config.progress_monitor.step_complete(name, n) for n in range(steps)]
                    config.progress_monitor.phase_finish(name)
                if not all(world.told):
                    return None
            return world.plan

    class ITimingCache:
        def __init__(self, device: str, entries: set[str]) -> None:
            self._device, self._entries = device, entries

        def combine(self, input_cache: Any, ignore_mismatch: bool) -> bool:
            self._entries |= input_cache._entries if input_cache._device == self._device else set()
            return bool(input_cache._device == self._device)

        def serialize(self) -> bytes:
            return "\n".join([self._device, *sorted(self._entries)]).encode()

    class IProgressMonitor:
        pass

    class EngineInspector:
        def get_engine_information(self, form: Any) -> str:
            assert form is module.LayerInformationFormat.JSON
            return world.inspected

    class ICudaEngine:
        def create_engine_inspector(self) -> Any:
            return module.EngineInspector()

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            pass

        def load_runtime(self, path: str) -> Any:
            raise NotImplementedError

        def deserialize_cuda_engine(self, plan: bytes) -> Any:
            assert plan == world.plan
            world.host_code_allowed = getattr(self, "engine_host_code_allowed", False)
            return module.ICudaEngine()

    makers = (ITensor, ILayer, INetworkDefinition, ParserError, OnnxParser, IOptimizationProfile)
    for cls in (*makers, IBuilderConfig, Builder, ITimingCache, EngineInspector, ICudaEngine, Runtime):
        setattr(module, cls.__name__, limited(cls, names[cls.__name__]))
    module.ILogger = ILogger
    if "IProgressMonitor" in names:
        module.IProgressMonitor = IProgressMonitor
    if "IRuntimeCache" in names:
        module.IRuntimeCache = object
    return TensorRT("tensorrt_rtx" if version == RTX else "tensorrt", module)
