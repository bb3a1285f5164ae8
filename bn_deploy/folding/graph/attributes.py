"""How attributes of nodes are read."""

from __future__ import annotations

import onnx_ir as ir


def ints(node: ir.Node, name: str) -> list[int] | None:
    """An attribute of whole numbers, or None if it is not there."""
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(number) for number in attribute.as_ints()]


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def real_number(node: ir.Node, name: str, default: float) -> float:
    """An attribute that is a real number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def text(node: ir.Node, name: str, default: str) -> str:
    """An attribute that is a word."""
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())
