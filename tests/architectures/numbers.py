"""Hard numbers for an architecture, the same in every flavour: made from a seed, in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.architectures.norms import NORMS, Textbook
from tests.architectures.row import Architecture

SPREADS = {2: 1e-4, 3: 1e2}
"""Of which channels the weights are shrunk or blown up, so that variances from 1e-8 to 1e4 are met."""


def network(row: Architecture, norm: str = "torch", seed: int = 0) -> nn.Module:
    """The architecture in float32 and eval mode, as if trained; both flavours compute the same.

    In every batch norm the first scale is zero and the second negative. The statistics are those of the
    network's own activations, so that signals stay of order one however many layers there are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        native = row.make(NORMS["torch"]).double().eval()
        with torch.no_grad():
            for parameter in native.parameters():
                _spread(parameter)
            layers = [m for m in native.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            for layer in layers:
                nn.init.normal_(layer.weight)
                nn.init.normal_(layer.bias)
                layer.weight[0], layer.weight[1] = 0.0, -layer.weight[1].abs()
                layer.momentum, layer.training = 1.0, True
            native(inputs(row, 64, seed).double())
            for layer in layers:
                layer.momentum, layer.training = 0.1, False
    native = native.float()
    return native if norm == "torch" else _textbook(row, native)


def inputs(row: Architecture, count: int, seed: int = 1) -> Tensor:
    """Random inputs, (count, *row.shape), float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *row.shape, generator=generator)


def _spread(parameter: Tensor) -> None:
    """Weights of unit gain: (out, in, ...), or transposed; some outputs far smaller or larger than others."""
    if parameter.dim() < 2:
        return
    nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    for channel, factor in SPREADS.items():
        parameter[channel] *= factor


def _textbook(row: Architecture, native: nn.Module) -> nn.Module:
    """The same network with the textbook's batch norms and the same numbers."""
    network = row.make(Textbook).eval()
    given = native.state_dict()
    names = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"}
    with torch.no_grad():
        for path, tensor in network.state_dict().items():
            layer, _, name = path.rpartition(".")
            tensor.copy_(given[f"{layer}.{names.get(name, name)}"].reshape(tensor.shape))
    return network
