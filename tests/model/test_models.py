from __future__ import annotations

import pytest
import torch
from torch import nn

from bn_deploy.batchnorm.convert import convert
from bn_deploy.batchnorm.flavours import find
from bn_deploy.errors import InputError
from bn_deploy.folding.modules.driver import fold
from bn_deploy.model import MODELS, NORMS, Model, build, model

every_model = pytest.mark.parametrize("row", MODELS, ids=lambda row: row.name)
every_norm = pytest.mark.parametrize("norm", NORMS)


@every_norm
@every_model
@pytest.mark.parametrize("batch", [1, 3])
def test_a_model_takes_and_gives_what_its_row_says(row: Model, norm: str, batch: int) -> None:
    network = build(row.name, norm).eval()
    feeds = [torch.zeros(spec.bind(batch), dtype=getattr(torch, spec.dtype)) for spec in row.inputs]
    with torch.no_grad():
        logits = network(*feeds)
    (output,) = row.outputs
    assert tuple(logits.shape) == output.bind(batch)
    assert logits.dtype == getattr(torch, output.dtype)


@every_norm
@every_model
def test_converting_and_folding_leaves_no_batch_norm(row: Model, norm: str) -> None:
    network = build(row.name, norm).eval()
    flavours = {found.flavour.name for found in find(network)}
    assert flavours == {norm}
    result = fold(convert(network))
    assert not find(result.module)
    assert not result.report.kept
    assert len(result.report.folded) == len(find(network))


@every_norm
def test_lenet_is_the_books_layer_for_layer(norm: str) -> None:
    """d2l.ai 8.5: 6 and 16 filters of 5 x 5, then 120, 84 and 10 units; a norm after each hidden layer."""
    network = build("lenet", norm)
    weights = [tuple(m.weight.shape) for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert weights == [(6, 1, 5, 5), (16, 6, 5, 5), (120, 256), (84, 120), (10, 84)]
    assert [found.path for found in find(network)] == ["1", "5", "10", "13"]
    kinds = [type(layer).__name__ for layer in network.children()]
    norms = [kinds[i] for i in (1, 5, 10, 13)]
    assert norms == (["BatchNorm"] * 4 if norm == "custom" else [f"BatchNorm{d}d" for d in (2, 2, 1, 1)])
    assert all(kinds[i + 1] == "Sigmoid" for i in (1, 5, 10, 13))
    assert kinds.count("AvgPool2d") == 2
    # 44 426 weights and biases as in LeNet-5 with 10 outputs, and a scale and shift for each of 226 channels.
    assert sum(p.numel() for p in network.parameters()) == 44_426 + 2 * 226


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"^unknown model 'vgg'; there are lenet$"):
        model("vgg")
    with pytest.raises(InputError, match=r"^unknown model 'vgg'; there are lenet$"):
        build("vgg", "torch")
    with pytest.raises(InputError, match=r"^unknown norm 'group'; there are custom, torch$"):
        build("lenet", "group")


def test_names_are_unique() -> None:
    assert len({row.name for row in MODELS}) == len(MODELS)
