"""What an observed forward may do without harm, and what it may not: each was once got wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.driver import fold
from bn_deploy.folding.outcome import FoldReport
from tests.batchnorm.layers import EPS, Published, hard_numbers, layer, output, random_input, untouched
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful, hard

HOOKED = "with a hook"


def textbook(rank: int = 4) -> nn.Module:
    return layer("recognised", hard_numbers(3), rank)


def hooked(norm: nn.Module) -> nn.Module:
    norm.register_forward_hook(lambda *_: None)
    return norm


class Both(nn.BatchNorm2d):
    """A batch norm and what follows it in one layer."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return functional.leaky_relu(super().forward(input), 0.1)


def called_with_dict(m: Any, x: Tensor) -> Any:
    return {"out": m.bn(m.conv(x)), "none": None, "size": tuple(x.shape)}["out"]


def in_order(m: Any, x: Tensor) -> Any:
    return m.bn(m.conv(x))


def channels_last(m: Any, x: Tensor) -> Any:
    return in_order(m, x.to(memory_format=torch.channels_last))


@torch.no_grad()
def without_grad(m: Any, x: Tensor) -> Any:
    return in_order(m, x)


def autocasting(m: Any, x: Tensor) -> Any:
    with torch.autocast("cpu", enabled=False):
        return m.bn(m.conv(x))


def _sharing() -> nn.Module:
    one, two = Base(), Base()
    two.bn.running_mean, two.bn.running_var = one.bn.running_mean, one.bn.running_var
    return nn.Sequential(one, nn.ReLU(), two)


# What a network is, and how many of its batch norms are folded.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "a textbook layer that stays": (lambda: nn.Sequential(Base(), hooked(textbook())), 1),
    "textbook layers in a row": (lambda: nn.Sequential(textbook(), textbook()), 1),
    "textbook layers in a row after a layer": (lambda: nn.Sequential(Base(), textbook(), textbook()), 3),
    "a textbook layer of another kind": (lambda: hard(nn.Sequential(Base(), BatchNorm(3, 4), nn.ReLU())), 2),
    "a table of another type": (
        lambda: Base(lambda m, x: m.bn(m.conv(x) * torch.linspace(1, 2, 3)[:, None, None])),
        1,
    ),
    "a table of whole numbers": (
        lambda: Base(lambda m, x: m.bn(m.conv(x) + torch.arange(3).reshape(3, 1, 1))),
        1,
    ),
    "a number read after it": (lambda: Base(lambda m, x: (y := m.bn(m.conv(x))) * y.max().item()), 1),
    "a number read before it": (lambda: Base(lambda m, x: m.bn((y := m.conv(x)) * y.max().item())), 0),
    "an activation in it": (lambda: Base(bn=Both(3)), 1),
    "a function": (
        lambda: Base(
            lambda m, x: functional.batch_norm(
                m.conv(x), m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias, eps=m.bn.eps
            )
        ),
        1,
    ),
    "a checkpoint": (lambda: Base(lambda m, x: m.bn(checkpoint(m.conv, x, use_reentrant=False))), 1),
    "autocast that is off": (lambda: Base(autocasting), 1),
    "a mapping in between": (lambda: Base(called_with_dict), 1),
    "no grad": (lambda: Base(without_grad), 1),
    "channels last": (lambda: Base(channels_last), 1),
    "a hook on a container": (lambda: nn.Sequential(hooked(nn.Sequential(Base())), nn.ReLU()), 1),
    "a result that is kept": (lambda: Base(lambda m, x: _kept(m, m.bn(m.conv(x)))), 1),
    "a view that is written to before": (lambda: Base(lambda m, x: m.bn(_written(m.conv(x)))), 0),
    "a view that is written to after": (lambda: Base(lambda m, x: _written(m.bn(m.conv(x)))), 1),
    "statistics of two": (_sharing, 2),
}


def _kept(m: Any, y: Tensor) -> Tensor:
    m.last = y
    return y


def _written(y: Tensor) -> Tensor:
    y[:, 1].mul_(2).add_(1)
    y.view(-1)[3:9].abs_()
    return y


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_were_got_wrong(name: str) -> None:
    build, folded = NETWORKS[name]
    network = build().eval()
    result = assert_faithful(network, X, example_inputs=X)
    assert len(result.report.folded) == folded, str(result.report)
    for other in (random_input(1, 3, 5, 3), random_input(7, 3, 4, 9)):
        expected = output(network, other)
        assert abs(output(result.module, other) - expected).max() <= 1e-8 * abs(expected).max()


RETURNED: dict[str, Callable[[Any, Tensor], Any]] = {
    "as it is": lambda m, x: (m.bn(m.conv(x)), m.conv.weight),
    "in a list": lambda m, x: [m.bn(m.conv(x)), *m.parameters()],
    "in an object": lambda m, x: Holder(m.bn(m.conv(x)), m.conv.weight),
}


class Holder:
    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors


@pytest.mark.parametrize("name", RETURNED)
def test_a_parameter_that_is_returned_stays_as_it_is(name: str) -> None:
    network = Base(RETURNED[name])
    with untouched(network):
        (entry,) = fold(network, X).report.kept
    assert "directly" in entry.reason or "somewhere else" in entry.reason, entry.reason


def view_of_a_buffer(m: Any, x: Tensor) -> Tensor:
    m.total.view(1)[0].add_(1)
    return m.bn(m.conv(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("given", [True, False], ids=["example", "no example"])
def test_a_buffer_is_not_written_to_while_the_network_is_observed(given: bool) -> None:
    network = Base(view_of_a_buffer)
    with untouched(network):
        (entry,) = fold(network, X if given else None).report.kept
    assert "the forward writes to" in entry.reason


def _report(network: nn.Module) -> FoldReport:
    return fold(network.double().eval()).report


def test_inputs_are_found_for_layers_that_compute_their_weight() -> None:
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    assert len(_report(nn.Sequential(first, nn.BatchNorm2d(4))).folded) == 1


def test_a_layer_that_converts_stays_what_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), textbook().float()).eval().half()
    network[1] = textbook().float()
    x = random_input(2, 3, 4, 4).half()
    assert fold(network, x).module(x).dtype is network(x).dtype is torch.float32


def test_a_training_batch_norm_in_the_forward_is_never_folded() -> None:
    network: Any = nn.Sequential(Base(), Base(), Base()).eval()
    network[1].bn.train()
    with untouched(network):
        report = fold(network, X).report
    assert {entry.site.batchnorm for entry in report.folded} == {"0.bn", "2.bn"}
    assert [entry.site.batchnorm for entry in report.kept] == ["1.bn"]
    assert "is in training mode" in report.kept[0].reason


def traced(module: nn.Module) -> Any:
    return torch.jit.trace(module, X)  # type: ignore[no-untyped-call]  # torch's function has no types


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize("use", [torch.jit.script, traced])
def test_a_script_stays_what_it_is(use: Callable[[nn.Module], nn.Module]) -> None:
    inner = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).double().eval()
    network = nn.Sequential(use(inner), nn.ReLU()).eval()
    try:
        result = fold(network, X)
    except ModelError:
        return
    assert abs(output(result.module, X) - output(network, X)).max() <= EPS**2


def test_a_published_layer_that_is_half_converted_is_not_folded_inexactly() -> None:
    """`double()` leaves its statistics in float32: what it computes is not quite what its numbers say."""
    network = nn.Sequential(nn.Conv2d(3, 3, 1), Published(3, 4)).double().eval()
    assert_faithful(network, X, example_inputs=X)
