"""The forms of a trained network that are torch modules: as trained, converted, folded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from bn_deploy.backends.pytorch import TorchNetwork
from bn_deploy.batchnorm.convert import convert
from bn_deploy.folding.modules.driver import fold
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.model import Model, model
from bn_deploy.train.checkpoint import Checkpoint


@dataclass(frozen=True)
class Forms:
    """One network, three times the same function.

    Attributes:
        row: its row of MODELS.
        norm: the norm layer that it was trained with, a row of NORMS.
        trained: with whichever batch norm it was trained with.
        converted: with torch's batch norms.
        folded: without those that could be folded.
        report: what became of each batch norm.
    """

    row: Model
    norm: str
    trained: nn.Module
    converted: nn.Module
    folded: nn.Module
    report: FoldReport

    def bounded(self, network: nn.Module) -> TorchNetwork:
        """One of the forms with its inputs and outputs, as a runner takes it."""
        return TorchNetwork(network, self.row.inputs, self.row.outputs)


def forms_of(checkpoint: Checkpoint) -> Forms:
    """Converts and folds the network of a checkpoint.

    Raises:
        ModelError: a batch norm cannot be converted.
    """
    row = model(checkpoint.model)
    converted = convert(checkpoint.network)
    example = tuple(torch.zeros(s.bind(2), dtype=getattr(torch, s.dtype)) for s in row.inputs)
    result = fold(converted, example)
    return Forms(row, checkpoint.norm, checkpoint.network, converted, result.module, result.report)
