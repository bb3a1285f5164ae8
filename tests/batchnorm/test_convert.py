from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.batchnorm import native
from bn_deploy.batchnorm.convert import convert
from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.batchnorm.flavours import BATCHNORMS, NATIVE, Flavour, flavour_of
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.errors import ModelError
from tests.batchnorm.layers import FLAVOURS, Published, hard_numbers, layer, output, random_input, untouched

CASES = [(name, rank, c) for name, kind in FLAVOURS.items() for rank in kind.ranks for c in (1, 6)]


def test_every_flavour_is_tested() -> None:
    assert list(FLAVOURS) == [flavour.name for flavour in BATCHNORMS]


@pytest.mark.parametrize(("flavour", "rank", "channels"), CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_numbers_are_kept_exactly(flavour: str, rank: int, channels: int, dtype: torch.dtype) -> None:
    module = layer(flavour, hard_numbers(channels), rank, dtype)
    found = flavour_of(module)
    assert found is not None
    assert found.name == flavour
    assert rank in found.ranks(module)
    with untouched(module):
        converted = convert(module)
    assert flavour_of(converted) is NATIVE
    before, after = found.params(module), native.params(converted)
    for name in ("weight", "bias", "running_mean", "running_var", "eps"):
        assert np.array_equal(getattr(after, name), getattr(before, name)), name
    assert {tensor.dtype for tensor in converted.state_dict().values() if tensor.is_floating_point()} == {
        dtype
    }


@pytest.mark.parametrize(("flavour", "rank", "channels"), CASES)
def test_outputs_agree_to_rounding(flavour: str, rank: int, channels: int) -> None:
    numbers = hard_numbers(channels)
    module = layer(flavour, numbers, rank)
    x = random_input(*(5, channels, 3, 2, 2)[:rank])
    affine = numbers.affine()
    shape = (1, channels, 1, 1, 1)[:rank]
    operands = np.abs(affine.scale) * np.abs(numbers.running_mean) + np.abs(numbers.bias)
    magnitude = np.abs(affine.scale).reshape(shape) * np.abs(x.numpy()) + operands.reshape(shape)
    # Two orders of one formula, each of fewer than eight roundings of operands of that magnitude.
    bound = 16 * np.finfo(float).eps * magnitude
    assert np.all(np.abs(output(convert(module), x) - output(module, x)) <= bound)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_kept(training: bool) -> None:
    network = nn.Sequential(nn.Linear(2, 3), BatchNorm(3, 2), Published(3, 2)).train(training)
    network[2].train(not training)
    assert [m.training for m in convert(network).modules()] == [m.training for m in network.modules()]


def test_a_shared_layer_stays_shared() -> None:
    norm = BatchNorm(3, 2)
    network = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "c": BatchNorm(3, 2)})
    converted = convert(network)
    assert converted.get_submodule("a") is converted.get_submodule("b.0")
    assert converted.get_submodule("a") is not converted.get_submodule("c")
    assert norm is network["a"]


def test_what_is_native_or_no_batch_norm_is_only_copied() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.InstanceNorm2d(2)).eval()
    converted = convert(network)
    assert repr(converted) == repr(network)
    assert converted.get_submodule("1") is not network[1]
    assert all(torch.equal(a, b) for a, b in zip(converted.parameters(), network.parameters(), strict=True))


def test_statistics_that_a_cast_left_behind_are_not_narrowed() -> None:
    module = layer("recognised", hard_numbers(3), 2, torch.float32).half()
    assert isinstance(converted := convert(module), nn.BatchNorm1d)
    assert converted.running_var is not None
    assert torch.equal(converted.running_var, module.moving_var.flatten())  # type: ignore[operator]


def test_numbers_without_a_map_are_refused_by_path() -> None:
    network = nn.Sequential(nn.Sequential(BatchNorm(2, 2)))
    network.get_buffer("0.0.moving_var").fill_(-1)
    with (
        untouched(network),
        pytest.raises(ModelError, match=r"batch norm 0\.0: running_var . eps is -0\.99999"),
    ):
        convert(network)


def test_added_code_is_refused() -> None:
    network = nn.Sequential(BatchNorm(2, 2))
    network[0].register_forward_hook(lambda module, inputs, y: 2 * y)
    with pytest.raises(
        ModelError, match="batch norm 0 has forward hooks, which the converted layer would lack"
    ):
        convert(network)
    replaced = BatchNorm(2, 2)
    replaced.forward = lambda x: 2 * x  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"the network itself\) has a forward of its own"):
        convert(replaced)


def test_what_cannot_be_copied_is_refused() -> None:
    network = nn.Sequential(BatchNorm(2, 2))
    vars(network)["steps"] = (step for step in range(3))
    with pytest.raises(ModelError, match="the network cannot be copied: TypeError"):
        convert(network)


def test_torch_layers_without_weight_or_bias() -> None:
    module = nn.BatchNorm1d(2, affine=False)
    params = native.params(module)
    assert (params.weight.tolist(), params.bias.tolist()) == ([1.0, 1.0], [0.0, 0.0])


def test_torch_layers_without_statistics_have_no_numbers() -> None:
    module = nn.BatchNorm1d(2, track_running_stats=False)
    with pytest.raises(ValueError, match="track_running_stats=False"):
        native.params(module)
    with pytest.raises(ModelError, match="has no statistics to set"):
        native.set_statistics(module, torch.zeros(2), torch.ones(2))


@pytest.mark.parametrize("flavour", BATCHNORMS, ids=lambda flavour: flavour.name)
def test_statistics_can_be_set(flavour: Flavour) -> None:
    module = layer(flavour.name, hard_numbers(3), 2)
    mean, var = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([4.0, 5.0, 6.0]).double()
    flavour.set_statistics(module, mean, var)
    assert flavour.params(module).running_mean.tolist() == [1.0, 2.0, 3.0]
    assert flavour.params(module).running_var.tolist() == [4.0, 5.0, 6.0]


@pytest.mark.parametrize("learned", [True, False])
def test_what_was_learned_stays_learned(learned: bool) -> None:
    module = BatchNorm(2, 2).requires_grad_(learned)
    assert {parameter.requires_grad for parameter in convert(module).parameters()} == {learned}


@pytest.mark.parametrize(
    ("ranks", "kind"),
    [
        ((2,), nn.BatchNorm1d),
        ((3,), nn.BatchNorm1d),
        ((2, 3), nn.BatchNorm1d),
        ((4,), nn.BatchNorm2d),
        ((5,), nn.BatchNorm3d),
        ((2, 4), nn.SyncBatchNorm),
        ((2, 3, 4, 5), nn.SyncBatchNorm),
    ],
)
def test_torchs_layer_takes_every_rank_that_the_foreign_one_takes(
    ranks: tuple[int, ...], kind: type[nn.Module]
) -> None:
    assert native.kind_for(ranks) is kind


def test_numbers_too_large_for_their_type_are_refused() -> None:
    numbers = hard_numbers(2)
    with pytest.raises(ValueError, match="its numbers overflow float16"):
        native.build(
            nn.BatchNorm1d,
            BatchNormParams(
                numbers.weight * 1e6, numbers.bias, numbers.running_mean, numbers.running_var, 1e-5
            ),
            dtype=torch.float16,
            device=torch.device("cpu"),
            training=False,
        )
