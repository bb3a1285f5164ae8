"""Every linear kind x flavour x bias x groups, with hard statistics."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import EPS, FLAVOURS, hard_numbers, layer, output, random_input, untouched
from tests.fold.checking import assert_faithful, assert_same, hard, rounding_bound


@dataclass(frozen=True)
class Linear:
    """A linear layer to test: how it is made, what goes in, and the rank of what comes out."""

    make: Callable[..., nn.Module]
    shape: tuple[int, ...]
    rule: str
    grouped: bool = True

    @property
    def rank(self) -> int:
        return len(self.shape)


LINEARS: dict[str, Linear] = {
    "Conv1d": Linear(nn.Conv1d, (2, 4, 6), "conv-bn"),
    "Conv2d": Linear(nn.Conv2d, (2, 4, 5, 6), "conv-bn"),
    "Conv3d": Linear(nn.Conv3d, (2, 4, 4, 3, 5), "conv-bn"),
    "ConvTranspose1d": Linear(nn.ConvTranspose1d, (2, 4, 6), "conv-transpose-bn"),
    "ConvTranspose2d": Linear(nn.ConvTranspose2d, (2, 4, 5, 6), "conv-transpose-bn"),
    "ConvTranspose3d": Linear(nn.ConvTranspose3d, (2, 4, 4, 3, 5), "conv-transpose-bn"),
    "Linear": Linear(nn.Linear, (3, 4), "linear-bn", grouped=False),
}

CASES = [
    (kind, flavour, bias, groups)
    for kind, linear in LINEARS.items()
    for flavour, row in FLAVOURS.items()
    if linear.rank in row.ranks
    for bias in (True, False)
    for groups in ((1, 4) if linear.grouped else (1,))
]


def make(kind: str, channels: int, *, dtype: torch.dtype = torch.float64, **options: Any) -> nn.Module:
    torch.manual_seed(channels)
    if kind != "Linear":
        options = {"kernel_size": 3, **options}
    else:
        options.pop("groups", None)
    return LINEARS[kind].make(4, channels, **options).to(dtype).eval()


def check(kind: str, flavour: str, channels: int, dtype: torch.dtype = torch.float64, **options: Any) -> None:
    numbers = hard_numbers(channels)
    linear = make(kind, channels, dtype=dtype, **options)
    rank = LINEARS[kind].rank
    network = nn.Sequential(linear, layer(flavour, numbers, rank, dtype)).eval()
    x = random_input(*LINEARS[kind].shape, dtype=dtype)
    with untouched(network):
        result = fold(network, (x,))
    (entry,) = result.report.folded
    assert (entry.site.batchnorm, entry.site.producer, entry.flavour) == ("1", "0", flavour)
    assert entry.rule == LINEARS[kind].rule
    assert not result.report.kept
    assert isinstance(result.module.get_submodule("1"), nn.Identity)
    assert {parameter.dtype for parameter in result.module.parameters()} == {dtype}
    assert_same(network, result.module, x, rounding_bound(linear, numbers, x, torch.finfo(dtype).eps))
    assert entry.largest_scale == pytest.approx(
        np.abs(numbers.affine().scale).max(), rel=torch.finfo(dtype).eps
    )


@pytest.mark.parametrize(("kind", "flavour", "bias", "groups"), CASES)
def test_folding_changes_nothing_but_the_rounding(kind: str, flavour: str, bias: bool, groups: int) -> None:
    check(kind, flavour, 8, bias=bias, groups=groups)


@pytest.mark.parametrize("kind", LINEARS)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_channel_and_an_odd_number(kind: str, channels: int) -> None:
    check(kind, "torch", channels)


@pytest.mark.parametrize("kind", LINEARS)
def test_float32(kind: str) -> None:
    check(kind, "torch", 8, torch.float32)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (kind, options)
        for kind in LINEARS
        for options in (
            {"stride": 2, "padding": 1},
            {"dilation": 2, "padding": 2, "groups": 2},
            {"kernel_size": 1},
            *([] if "Transpose" in kind else [{"padding": "same"}]),
            *([{"stride": 2, "output_padding": 1, "groups": 2}] if "Transpose" in kind else []),
            *(
                [{"padding": 1, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")]
                if "Transpose" not in kind
                else []
            ),
        )
        if kind != "Linear"
    ],
)
def test_variants_of_convolution(kind: str, options: dict[str, Any]) -> None:
    numbers = hard_numbers(8)
    linear = make(kind, 8, **options)
    rank = LINEARS[kind].rank
    network = nn.Sequential(linear, layer("torch", numbers, rank)).eval()
    x = random_input(*LINEARS[kind].shape)
    result = fold(network)
    assert len(result.report.folded) == 1
    assert_same(network, result.module, x, rounding_bound(linear, numbers, x, np.finfo(float).eps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Conv2d", "ConvTranspose2d", "Linear"])
def test_half_types_are_rounded_once(kind: str, dtype: torch.dtype) -> None:
    network = nn.Sequential(make(kind, 8), nn.BatchNorm2d(8) if kind != "Linear" else nn.BatchNorm1d(8))
    hard(network).to(dtype)
    x = random_input(*LINEARS[kind].shape, dtype=dtype)
    result, exact = fold(network, (x,)), fold(network.double(), (x.double(),))
    assert len(result.report.folded) == 1
    for name, values in result.module.named_parameters():
        assert values.dtype is dtype
        assert torch.equal(values, exact.module.get_parameter(name).to(dtype)), name


@pytest.mark.parametrize("flavour", ["custom", "torch"])
def test_statistics_of_another_type(flavour: str) -> None:
    numbers = BatchNormParams(np.ones(4), np.zeros(4), np.zeros(4), np.ones(4), EPS)
    norm = layer(flavour, numbers, 4, torch.float32)
    report = fold(nn.Sequential(make("Conv2d", 4, dtype=torch.float16), norm).eval()).report
    # Torch's layer returns the type of its input, the textbook's one promotes it.
    assert len(report.folded) == (flavour == "torch")
    reason = "computes in torch.float32, what feeds it in torch.float16"
    assert all(reason in entry.reason for entry in report.kept)


def test_a_network_of_every_flavour_nested_and_with_two_names() -> None:
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNorm(4, 4), nn.ReLU())
    network = nn.Module()
    network.stem = nn.Sequential(nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3)), nn.ReLU())
    network.body = nn.ModuleDict({"a": block})
    network.alias = block[1]
    network.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 16, 5), nn.BatchNorm1d(5))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts: Any = self.parts
            result: torch.Tensor = parts.head(parts.body["a"](parts.stem(x)))
            return result

    net = hard(Net())
    net.get_buffer("parts.body.a.1.moving_var").fill_(0.5)
    result = assert_faithful(net, random_input(2, 1, 8, 8))
    assert [str(e.site) for e in result.report.folded] == [
        "parts.stem.0.0 -> parts.stem.0.1",
        "parts.body.a.0 -> parts.body.a.1",
        "parts.head.1 -> parts.head.2",
    ]
    assert result.module.get_submodule("parts.alias") is result.module.get_submodule("parts.body.a.1")


def test_batch_norms_in_a_row() -> None:
    network = hard(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Identity()))
    assert len(assert_faithful(network, random_input(2, 2, 5, 5)).report.folded) == 2


def test_folding_again_changes_nothing() -> None:
    network = hard(nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)))
    once = fold(network)
    twice = fold(once.module)
    assert [len(once.report.folded), len(once.report.kept)] == [1, 1]
    assert twice.report.folded == ()
    assert [entry.site.batchnorm for entry in twice.report.kept] == ["3"]
    first, second = once.module.state_dict(), twice.module.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_network_without_batch_norm_is_only_copied() -> None:
    network = nn.Sequential(nn.Linear(2, 3))
    result = fold(network)
    assert (result.report.folded, result.report.kept) == ((), ())
    assert result.module is not network
    assert str(result.report) == "batch norms 0 -> 0"


@pytest.mark.parametrize("requires_grad", [True, False])
def test_layout_and_grad_are_kept(requires_grad: bool) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).eval().requires_grad_(requires_grad)
    weight = network.get_parameter("0.weight")
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    folded = fold(network).module
    assert {p.requires_grad for p in folded.parameters()} == {requires_grad}
    assert folded.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


def test_the_report_is_text_and_json() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    network.get_parameter("3.bias").data.fill_(1.0)
    report = fold(network).report
    head, folded, kept = str(report).splitlines()
    assert head == "batch norms 2 -> 1"
    assert folded == "  folded  0 -> 1  by conv-bn, torch, largest scale 1"
    assert kept.startswith("  kept    3: a shift does not pass relu in 2, a Relu; after it")
    value = json.loads(json.dumps(report.to_json()))
    assert value["folded"][0]["site"] == {"batchnorm": "1", "producer": "0"}
    assert value["kept"][0]["reason"].startswith("a shift does not pass relu")


def test_float32_rounds_once() -> None:
    """The written weight is the nearest float32 to the float64 product, not a product of float32 factors."""
    numbers = hard_numbers(8)
    network = nn.Sequential(make("Conv2d", 8, dtype=torch.float32), layer("torch", numbers, 4, torch.float32))
    wide = nn.Sequential(
        make("Conv2d", 8, dtype=torch.float32), layer("torch", numbers, 4, torch.float32)
    ).double()
    folded, exact = fold(network.eval()).module, fold(wide.eval()).module
    assert np.array_equal(
        folded.get_parameter("0.weight").detach().numpy(),
        exact.get_parameter("0.weight").detach().float().numpy(),
    )
    assert output(folded, random_input(1, 4, 5, 5, dtype=torch.float32)).shape == (1, 8, 3, 3)
