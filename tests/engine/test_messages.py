"""The raw texts are what TensorRT-RTX 1.7.1 said to broken models, and 8.5's form of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bn_deploy.engine import messages
from tests.engine.fake_trt import World, make

DRIVERLESS = (
    "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (In catchCudaError at "
    "/_src/checkMacros.cpp:250 (cudaError 35: CUDA driver version is insufficient for CUDA runtime version))"
)
MIXED = "mix: ElementWiseOperation SUM must have same input types. But they are of types Float and Half"
TURING = "Cannot compile operation 'gemm' for Turing (SM75): FP32 GEMM is not supported"
PARSE = "Failed to parse the ONNX model"


BROKEN_NODE = f"ITensor::getDimensions: Error Code 4: API Usage Error ({MIXED}. In validate at /_src/e.cpp:4)"
MYELIN = f"IBuilder::build: Error Code 1: Myelin ([pass.cpp:337: check] {TURING}. In f at /_src/c.cpp:2)"


@pytest.mark.parametrize(
    ("raw", "clear"),
    [
        (f"Invalid Node - mix\n{BROKEN_NODE}\n{DRIVERLESS}", MIXED),
        (MYELIN, TURING),
        (f"Assertion failed: model->ParseFromCodedStream(&codedInput): {PARSE}.", PARSE),
        ("Assertion failed: Foo::bar(x) == 1: no such thing", "no such thing"),
        ("4: [network.cpp::validate::2770] Error Code 4: Internal Error (No profile.)", "No profile"),
        ("plain words", "plain words"),
        ("While parsing node number 1:\n--- Begin node ---\nreason\nreason", "reason"),
    ],
)
def test_a_message_is_reduced_to_what_is_wrong(raw: str, clear: str) -> None:
    assert messages.sentence(raw) == clear


def test_a_missing_driver_is_told_when_nothing_else_is_wrong() -> None:
    assert "driver version is insufficient" in messages.sentence(DRIVERLESS)


def test_a_message_without_end_is_cut() -> None:
    assert messages.sentence("x" * 401) == "x" * 400 + " ..."


def test_many_problems_are_told_once_each_and_not_all() -> None:
    assert messages.summary(["a", "b", "a", ""]) == "a; b"
    assert messages.summary(["a", "b", "c", "d", "e"]) == "a; b; c; and 2 more"


NODES = [SimpleNamespace(name="conv", op_type="Conv"), SimpleNamespace(name="sig", op_type="Foo")]
PLUGIN = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'


@pytest.mark.parametrize("version", ["8.5.3.1", "11.4.0.106"])
@pytest.mark.parametrize(
    ("error", "clear"),
    [
        ({"desc": PLUGIN}, 'node "sig" (Foo): this TensorRT has no importer for the operator, and no plugin'),
        ({"desc": "false", "code": "UNSUPPORTED_NODE"}, 'node "sig" (Foo): unsupported node'),
        ({"desc": "bad", "node": -1, "name": "", "operator": ""}, "bad"),
    ],
)
def test_a_parser_error_names_its_node(version: str, error: dict[str, Any], clear: str) -> None:
    world = World(errors=[{"node": 1, "name": "sig", "operator": "Foo"} | error])
    trt = make(version, world)
    parser = trt.module.OnnxParser(trt.module.INetworkDefinition(), None)
    parser.parse(b"")
    assert messages.parser_errors(parser, NODES) == clear
