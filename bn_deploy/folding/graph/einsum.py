"""Einsum of two operands, one of them constant: a linear operator along any axes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from string import ascii_letters

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.attributes import text
from bn_deploy.folding.graph.field import Array, Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.weights import Edit, edited, weight_of
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True)
class _Product:
    """What an Einsum computes: letters stand for axes, and what the result lacks is added up.

    Attributes:
        index: which operand is the weight.
        weight, data, result: the letters of the axes of each.
    """

    index: int
    weight: str
    data: str
    result: str


def einsum_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """Law 2: s W x + t. Along an axis that only the data have, s would have to go into them."""
    product = _product(network, node)
    base, factor, shape = weight_of(network, node, product.index)
    scaled = factor * _on_weight(field.scale, product.result, product, shape, node)
    added = Field(np.ones([1] * field.rank), field.shift) if field.shifts else None
    return edited(network, Edit(node, product.index, base, scaled, added=added), np.zeros(0))


def einsum_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """Law 3: W (s x + t) = (W s) x + W t, of which t has its full size along axes that are added up."""
    product = _product(network, node)
    base, factor, shape = weight_of(network, node, product.index)
    scaled = factor * _on_weight(field.scale, product.data, product, shape, node)
    added = None
    if field.shifts:
        sizes = list(field.shift.shape)
        for axis, letter in enumerate(product.data):
            size = network.dims(node.inputs[1 - product.index])[axis]
            if letter in product.weight:
                size = shape[product.weight.index(letter)]
            elif letter in product.result:
                size = sizes[axis]
            if not isinstance(size, int):
                raise Refusal(f"how many elements {label(node)} adds up is not known")
            sizes[axis] = size
        terms = f"{product.weight},{product.data}->{product.result}"
        weight = network.constants.product(base, factor)
        total = np.einsum(terms, weight, np.broadcast_to(field.shift, sizes), optimize=True)
        added = Field(np.ones([1] * total.ndim), total)
    return edited(network, Edit(node, product.index, base, scaled, added=added), np.zeros(0))


def _product(network: Network, node: ir.Node) -> _Product:
    """What `node` computes.

    Raises:
        Refusal: it has not two operands of which one is constant; an axis occurs twice in one of them; or
            the weight has axes without a letter, which may be enlarged.
    """
    constant = [network.constants.holds(value) for value in node.inputs]
    if len(constant) != 2 or sum(constant) != 1:
        raise Refusal(f"the weights of {label(node)} are not constant")
    index = constant.index(True)
    given, arrow, result = text(node, "equation", "").replace(" ", "").partition("->")
    parts = given.split(",")
    if not arrow:  # then the letters that occur once, in the order of the alphabet
        counts = Counter(letter for letter in given if letter not in ",.")
        result = "".join(sorted(letter for letter, count in counts.items() if count == 1))
        result = f"...{result}" if "..." in given else result
    if "..." in parts[1 - index] and "..." in result and "..." not in parts[index]:
        free = [letter for letter in ascii_letters if letter not in given]
        named = len(parts[1 - index]) - len("...")
        meant = "".join(free[: network.rank(node.inputs[1 - index]) - named])
        *parts, result = (part.replace("...", meant) for part in (*parts, result))
    for letters in (*parts, result):
        if len(set(letters)) != len(letters) or not (letters.isalpha() and letters.isascii()):
            raise Refusal(f"what {label(node)} computes is not known")
    return _Product(index, parts[index], parts[1 - index], result)


def _on_weight(scale: Array, letters: str, product: _Product, shape: tuple[int, ...], node: ir.Node) -> Array:
    """A scale along axes called `letters` as one of the weight, of that shape."""
    sizes = [1] * len(shape)
    for letter, size in zip(letters, scale.shape, strict=True):
        if letter in product.weight:
            sizes[product.weight.index(letter)] = size
        elif size > 1:
            raise Refusal(f"the map varies along an axis that the weights of {label(node)} lack")
    if any(size not in (1, own) for size, own in zip(sizes, shape, strict=True)):
        raise Refusal(f"the weights of {label(node)} are broadcast along its channels")
    order = sorted(
        (axis for axis, letter in enumerate(letters) if letter in product.weight),
        key=lambda axis: product.weight.index(letters[axis]),
    )
    others = [axis for axis in range(len(letters)) if axis not in order]
    result: Array = scale.transpose([*others, *order]).reshape(sizes)
    return result
