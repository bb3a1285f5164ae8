"""The rounding model: the formula, where it ends, and that the installed runtimes keep to the table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from bn_deploy.backends.base import Array
from bn_deploy.errors import InputError
from bn_deploy.verify.tolerance import CLASSES, ROUNDINGS, gamma, number_class, rounding


def test_gamma_is_highams_formula_and_ends_where_it_ends() -> None:
    unit = 2.0**-11
    assert gamma(256, unit) == pytest.approx(0.125 / 0.875)
    assert gamma(0, unit) == 0.0
    assert gamma(2048, unit) is None
    assert gamma(2047, unit) is not None
    assert number_class("bf16").unit * 256 >= 1  # a dot product of 256 terms has no bound in bfloat16
    assert rounding("dot").relative(number_class("bf16").unit, 256) is None


def test_units_are_those_of_the_formats() -> None:
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    for name, kind in kinds.items():
        assert number_class(name).unit == torch.finfo(kind).eps / 2
    half = dict.fromkeys(("fp16", "bf16", "int8", "int8+fp16"), 3)
    assert {row.name: row.factor for row in CLASSES} == {"fp32": 2, "tf32": 2, **half}


def test_a_format_without_a_rule_is_refused() -> None:
    with pytest.raises(InputError, match=r"no rule for how far a network in fp8 .* known: fp32, tf32"):
        number_class("fp8")


def test_every_count_has_a_source_and_its_own_name() -> None:
    assert all(row.source and row.of for row in ROUNDINGS)
    assert len({row.name for row in ROUNDINGS}) == len(ROUNDINGS)


@pytest.mark.parametrize("terms", [1, 3, 17, 400])
def test_sums_of_products_keep_to_their_bound(terms: int) -> None:
    generator = np.random.default_rng(terms)
    a, b = (generator.normal(size=(50, terms)).astype(np.float32) for _ in range(2))
    a[:, terms // 2 :] *= 1e4  # badly mixed sizes
    exact = (a.astype(np.float64) * b).sum(axis=1)
    measured = torch.einsum("ij,ij->i", torch.from_numpy(a), torch.from_numpy(b)).numpy()
    relative = rounding("dot").relative(2.0**-24, terms)
    assert relative is not None
    assert (np.abs(measured - exact) <= relative * np.abs(a.astype(np.float64) * b).sum(axis=1)).all()


SQUASHES: dict[str, tuple[Callable[[Array], Array], Callable[[Tensor], Tensor]]] = {
    "Sigmoid": (lambda x: 1 / (1 + np.exp(-x)), torch.sigmoid),
    "Tanh": (np.tanh, torch.tanh),
}


@pytest.mark.parametrize("name", SQUASHES)
@pytest.mark.parametrize("runtime", ["torch", "ort"])
def test_the_installed_runtimes_squash_as_well_as_the_table_says(name: str, runtime: str) -> None:
    """The only counts that were measured rather than derived."""
    exact, in_torch = SQUASHES[name]
    x = np.concatenate([np.linspace(-90, 90, 200_001), np.linspace(-9, 9, 200_001)]).astype(np.float32)
    y = in_torch(torch.from_numpy(x)).numpy() if runtime == "torch" else _ort(name, x)
    relative = rounding("squash").relative(2.0**-24)
    assert relative is not None
    assert np.abs(y.astype(np.float64) - exact(x.astype(np.float64))).max() <= relative


def _ort(op: str, x: Array) -> Array:
    ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(op, ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])
