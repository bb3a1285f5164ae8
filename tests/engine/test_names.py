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
from bn_deploy.engine import api
from bn_deploy.errors import NotAvailable
from tests.engine.fake_trt import NAMES, VERSIONS

PACKAGE = Path(next(iter(bn_deploy.__path__)))
ROOMS = ("engine/api.py", "engine/build.py", "engine/messages.py", "engine/precision.py", "backends/trt.py")

# What a variable of this name is, with or without an underscore before it or `self.`.
TYPES = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
}

# Variables that hold the members of an enumeration.
MEMBERS = {"flags": "BuilderFlag", "flag": "NetworkDefinitionCreationFlag"}

# Names that some version lacks, each behind a question that api.py or its caller asks first.
OPTIONAL = {
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"),
    ("BuilderFlag", "FP16"),
    ("IBuilderConfig", "builder_optimization_level"),
}
# Names that TensorRT-RTX alone has.
RTX_ONLY = {
    ("IBuilderConfig", "set_compute_capability"),
    ("IBuilderConfig", "num_compute_capabilities"),
    ("ComputeCapability", "__members__"),
}


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
        kind, name = last_name(node.args[0]), constant(node.args[1])
    elif isinstance(node, ast.Subscript):  # flags["TF32"]
        kind, name = MEMBERS.get(last_name(node.value), ""), constant(node.slice)
    elif isinstance(node, ast.Compare):  # "TF32" in flags, "TF32" in module.BuilderFlag.__members__
        where = node.comparators[0]
        owner = where.value if isinstance(where, ast.Attribute) and where.attr == "__members__" else where
        kind, name = MEMBERS.get(last_name(owner), last_name(owner)), constant(node.left)
    else:
        return None
    return (kind, name) if name and kind in NAMES[VERSIONS[0]] else None


def constant(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def used() -> set[tuple[str, str]]:
    trees = (ast.parse((PACKAGE / room).read_text(encoding="utf-8")) for room in ROOMS)
    return {found for tree in trees for node in ast.walk(tree) if (found := use(node)) is not None}


USED = used()


def test_the_walk_finds_what_is_there() -> None:
    for name in (
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_tensor_address"),
        ("ICudaEngine", "get_tensor_profile_shape"),
        ("Builder", "build_serialized_network"),
        ("Runtime", "deserialize_cuda_engine"),
        ("OnnxParser", "parse"),
        ("ProfilingVerbosity", "DETAILED"),
        ("BuilderFlag", "TF32"),
    ):
        assert name in USED
    assert not (OPTIONAL | RTX_ONLY) - USED


@pytest.mark.parametrize("version", VERSIONS)
def test_each_name_exists_in_each_version(version: str) -> None:
    names: dict[str, Any] = NAMES[version]
    missing = set()
    for kind, attribute in USED - OPTIONAL - RTX_ONLY:
        if kind in {"__version__", "ComputeCapability"}:
            continue
        if kind not in names or (
            attribute not in {"", "__members__", "__init__"} and attribute not in names[kind]
        ):
            missing.add((kind, attribute))
    assert not missing


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_optional_is_really_missing_somewhere(version: str) -> None:
    lacking = [name for name in OPTIONAL if any(name[1] not in NAMES[each][name[0]] for each in VERSIONS)]
    assert sorted(lacking) == sorted(OPTIONAL)
    assert not any(name[1] in NAMES[version].get(name[0], ()) for name in RTX_ONLY)


def test_each_name_exists_in_tensorrt_rtx() -> None:
    try:
        module = api.find("tensorrt_rtx").module
    except NotAvailable as reason:
        pytest.skip(str(reason))
    for kind, attribute in USED - {
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"),
        ("BuilderFlag", "FP16"),
    }:
        assert hasattr(module, kind), kind
        assert not attribute or hasattr(getattr(module, kind), attribute), (kind, attribute)
