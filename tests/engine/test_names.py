"""Every TensorRT name that the package uses exists in every version that it claims to support.

TensorRT ships no types, so mypy cannot tell. The files that use TensorRT hold to names: a variable called
`config` is an IBuilderConfig, `network` an INetworkDefinition, and so on. So their attributes can be read
from the source; what each real version has was read from its bindings (trt_names.json).
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import bn_deploy
from bn_deploy.engine import api, precision
from bn_deploy.engine.options import HARDWARE_LEVELS
from bn_deploy.errors import NotAvailable
from tests.engine.fake_trt import NAMES, RTX, VERSIONS

PACKAGE = Path(next(iter(bn_deploy.__path__)))
# onnx_input.py knows ONNX's tensors only.
ENGINE = [path for path in sorted((PACKAGE / "engine").glob("*.py")) if path.name != "onnx_input.py"]
FILES = [*ENGINE, *sorted((PACKAGE / "backends").glob("trt*.py"))]

# What a variable of this name is, with or without an underscore before it or `self.`.
TYPES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "timings": "ITimingCache",
    "tensor": "ITensor",
    "layer": "ILayer",
    "producer": "ILayer",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "verbosity": "ProfilingVerbosity",
}

# Variables that hold the members of an enumeration.
MEMBERS = {"flags": "BuilderFlag", "flag": "NetworkDefinitionCreationFlag"}

# Names that some version lacks, each behind a question that api.py, knobs.py or its caller asks first.
OPTIONAL = {
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
    ("BuilderFlag", "FP16"),
    ("BuilderFlag", "VERSION_COMPATIBLE"),
    ("BuilderFlag", "EXCLUDE_LEAN_RUNTIME"),
    ("IBuilderConfig", "builder_optimization_level"),
    ("IBuilderConfig", "hardware_compatibility_level"),
    ("IBuilderConfig", "progress_monitor"),
    ("HardwareCompatibilityLevel", ""),
    ("HardwareCompatibilityLevel", "__members__"),
    ("IProgressMonitor", ""),
    ("IProgressMonitor", "__init__"),
    ("OnnxParser", "supports_model"),
    ("OnnxParser", "supports_model_v2"),
    ("OnnxParser", "num_subgraphs"),
    ("OnnxParser", "get_subgraph_nodes"),
    ("ParserError", "node_name"),
    ("ParserError", "node_operator"),
    ("Runtime", "engine_host_code_allowed"),
    ("Runtime", "load_runtime"),
}
# Names that TensorRT-RTX alone has.
RTX_ONLY = {
    ("IRuntimeCache", ""),
    ("IBuilderConfig", "set_compute_capability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("ComputeCapability", ""),
    ("ComputeCapability", "__members__"),
    ("IExecutionContext", "is_stream_capturable"),
}
CLASSES = {name for version in NAMES.values() for name in version}


def last_name(node: ast.expr) -> str:
    """The last word of `x`, `self._x` or `a.b.x`."""
    text = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
    return text.lstrip("_")


def use(node: ast.AST) -> tuple[str, str] | None:
    """(class, attribute) of what `node` uses of TensorRT; a class alone is (class, "")."""
    if isinstance(node, ast.Attribute):
        owner = node.value
        if last_name(owner) == "module":  # module.Builder
            return node.attr, ""
        if isinstance(owner, ast.Attribute) and last_name(owner.value) == "module":  # module.BuilderFlag.TF32
            return owner.attr, node.attr
        kind, name = TYPES.get(last_name(owner), ""), node.attr  # builder.create_network
    elif isinstance(node, ast.Call) and last_name(node.func) == "hasattr":  # hasattr(module.Builder, "x")
        owner, name = node.args[0], constant(node.args[1])
        kind = TYPES.get(last_name(owner), last_name(owner))
        if kind == "module":
            return (name, "") if name else None
    elif isinstance(node, ast.Subscript):  # flags["TF32"]
        kind, name = MEMBERS.get(last_name(node.value), ""), constant(node.slice)
    elif isinstance(node, ast.Compare):  # "TF32" in flags, "TF32" in module.BuilderFlag.__members__
        where = node.comparators[0]
        owner = where.value if isinstance(where, ast.Attribute) and where.attr == "__members__" else where
        kind, name = MEMBERS.get(last_name(owner), last_name(owner)), constant(node.left)
    else:
        return None
    return (kind, name) if name and kind in CLASSES else None


def constant(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def has(version: str, kind: str, attribute: str) -> bool:
    """Whether that version has the class and, if one is named, its attribute or member."""
    names: dict[str, Any] = NAMES[version]
    python = {"", "__members__", "__init__"}
    return kind == "__version__" or (kind in names and (attribute in python or attribute in names[kind]))


def used() -> set[tuple[str, str]]:
    trees = (ast.parse(path.read_text(encoding="utf-8")) for path in FILES)
    return {name for tree in trees for node in ast.walk(tree) if (name := use(node)) is not None}


USED = used()


def test_the_walk_finds_what_is_there() -> None:
    for name in (
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "set_optimization_profile_async"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("Builder", "build_serialized_network"),
        ("Runtime", "deserialize_cuda_engine"),
        ("OnnxParser", "parse"),
        ("ParserError", "desc"),
        ("ProfilingVerbosity", "DETAILED"),
        ("BuilderFlag", "TF32"),
        ("IBuilderConfig", "create_timing_cache"),
        ("ITimingCache", "combine"),
        ("ILayer", "get_input"),
    ):
        assert name in USED, name
    assert not (OPTIONAL | RTX_ONLY) - USED


@pytest.mark.parametrize("version", VERSIONS)
def test_each_name_exists_in_each_version(version: str) -> None:
    assert not {name for name in USED - OPTIONAL - RTX_ONLY if not has(version, *name)}


# What TensorRT-RTX lacks of the names, all of which 8.x or 10 have.
NOT_RTX = {
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("BuilderFlag", "FP16"),
    ("OnnxParser", "supports_model"),
}


def test_each_name_exists_in_tensorrt_rtx() -> None:
    assert {name for name in USED if not has(RTX, *name)} == NOT_RTX


def test_the_list_of_tensorrt_rtx_is_that_of_the_module() -> None:
    try:
        module = api.find("tensorrt_rtx").module
    except NotAvailable as reason:
        pytest.skip(str(reason))
    for kind, attribute in USED - NOT_RTX:
        assert hasattr(module, kind), kind
        assert not attribute or hasattr(getattr(module, kind), attribute), (kind, attribute)


def test_what_is_optional_is_really_missing_somewhere() -> None:
    assert not {name for name in OPTIONAL if all(has(version, *name) for version in VERSIONS)}
    assert not {name for name in OPTIONAL if not any(has(version, *name) for version in NAMES)}
    assert not {name for name in RTX_ONLY if any(has(version, *name) for version in VERSIONS)}


def test_names_in_tables_exist_in_some_version() -> None:
    def known(kind: str) -> set[str]:
        return {name for version in NAMES.values() for name in version.get(kind, ())}

    assert set(HARDWARE_LEVELS.values()) <= known("HardwareCompatibilityLevel")
    assert known("LayerType") >= precision._PRODUCTS | precision._IDLE
    assert set(precision._DATA_TYPES) | set(api.NUMPY_TYPES) <= known("DataType")
    weak = {flag for flags in precision._WEAK_FLAGS.values() for flag in flags}
    assert weak <= known("BuilderFlag")
