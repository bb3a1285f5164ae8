"""How a fold is judged: its outcomes, and outputs against bounds that have an origin."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.folding.modules.driver import fold
from bn_deploy.folding.outcome import FoldResult
from tests.batchnorm.layers import output, untouched


def terms(layer: nn.Module) -> int:
    """How many products at most one output value of a linear layer adds up."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.numel() if "Transpose" in type(layer).__name__ else weight[0].numel()


def rounding_bound(layer: nn.Module, numbers: BatchNormParams, x: Tensor, eps: float) -> NDArray[np.float64]:
    """How far layer-then-batch-norm and the folded layer may be apart, in the shape of their output.

    A sum of n products is off by at most n eps/2 times the sum of their magnitudes, in any order (Higham,
    "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1). There are two such sums, one with
    weights that were rounded themselves, and on either side fewer than eight roundings of the map.
    """
    absolute = copy.deepcopy(layer).double()
    for parameter in absolute.parameters():
        parameter.data.abs_()
    scale = numbers.affine().scale
    operands = output(absolute, x.double().abs())
    shape = (1, scale.size, *[1] * (operands.ndim - 2))
    scale, mean, bias = (np.abs(v).reshape(shape) for v in (scale, numbers.running_mean, numbers.bias))
    bound: NDArray[np.float64] = (terms(layer) + 16) * eps * (scale * (operands + mean) + bias)
    return bound


def batchnorms(network: nn.Module) -> list[str]:
    """The paths of all batch norms, by name: also of those that the package does not know."""
    named = ("BatchNorm", "Published")
    return sorted(path for path, m in network.named_modules() if any(n in type(m).__name__ for n in named))


def assert_same(before: nn.Module, after: nn.Module, x: Tensor, bound: NDArray[np.float64]) -> None:
    """The two networks agree on x to within `bound`, value by value."""
    gap = np.abs(output(after, x) - output(before, x))
    assert gap.shape == bound.shape
    assert np.all(gap <= bound), f"off by {np.max(gap / bound):.3g} times the bound"


def assert_faithful(network: nn.Module, *inputs: Any, example_inputs: Any = None) -> FoldResult:
    """Folds a float64 network, which is not touched; compares outputs; every batch norm has an outcome.

    For networks of several layers: of sixteen digits, a few layers of hard statistics lose less than half,
    while a wrong fold is wrong in the first.
    """
    expected = output(network, *inputs)
    with untouched(network):
        result = fold(network, example_inputs)
    gap = np.abs(output(result.module, *inputs) - expected).max()
    assert gap <= np.sqrt(np.finfo(np.float64).eps) * np.abs(expected).max(), (
        f"off by {gap:.3g}: {result.report}"
    )
    report = result.report
    outcomes = [entry.site.batchnorm for entry in report.folded] + [
        entry.site.batchnorm for entry in report.kept
    ]
    assert set(batchnorms(network)) <= set(outcomes), "some other layers are batch norms by what they do"
    assert len(outcomes) == len(set(outcomes))
    assert all(entry.reason for entry in report.kept)
    assert not {entry.site.batchnorm for entry in report.folded} & set(batchnorms(result.module))
    return result


def hard(network: nn.Module, seed: int = 0) -> nn.Module:
    """Gives every batch norm of torch's in `network` numbers with signs and spread; float64, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    network.double().eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        for name, tensor in network.named_buffers():
            if name.endswith("_var"):
                tensor.copy_(torch.exp(2 * tensor))
    return network
