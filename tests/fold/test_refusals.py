"""Each refusal on a network that differs in one thing from one that is folded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.errors import CheckFailed, ModelError
from bn_deploy.folding.modules import driver as modules
from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import Published, output, untouched
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful, batchnorms, hard


def test_the_base_folds() -> None:
    assert len(assert_faithful(Base(), X).report.folded) == 1


def changed(change: Callable[[Any], object], **parts: nn.Module) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network = Base(**parts)
        change(network)
        return network

    return build


def course(
    forward: Callable[[Any, Tensor], Any], **parts: Callable[[], nn.Module]
) -> Callable[[], nn.Module]:
    return lambda: Base(forward, **{name: make() for name, make in parts.items()})


class OtherConv(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input) ** 2


class OtherBatchNorm(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return super().forward(input) ** 2


def add_twice(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.bn(y) + y  # type: ignore[no-any-return]


def return_both(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return torch.stack((m.bn(y), y))


def change_after(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = m.bn(y)
    y.add_(1)
    return z  # type: ignore[no-any-return]


def count(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.bn(m.conv(x))  # type: ignore[no-any-return]


def remember(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    last, m.last = m.last, y
    return m.bn(y) if last is None else m.bn(y) + last  # type: ignore[no-any-return]


def ask_for_type(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.bn(y) + y if isinstance(x, Tensor) else m.bn(y)  # type: ignore[no-any-return]


def ask_is_tensor(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.bn(y) + y if torch.is_tensor(x) else m.bn(y)  # type: ignore[no-any-return]


def weigh(m: Any, x: Tensor) -> Tensor:
    largest = float(next(m.conv.parameters()).abs().max())
    return m.bn(m.conv(x)) * largest  # type: ignore[no-any-return]


def branch_on_bias(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.conv(x)) + (0 if m.conv.bias is None else 1)  # type: ignore[no-any-return]


def without_bias() -> nn.Module:
    return nn.Conv2d(3, 3, 3, padding=1, bias=False)


def overflow(m: Any) -> None:
    m.half()
    m.bn.weight.data.fill_(6e4)
    m.bn.running_var.fill_(1e-4)


def replace_forward(module: nn.Module) -> None:
    old = module.forward
    module.forward = lambda x: 2 * old(x)


def half_trained() -> nn.Module:
    network = nn.Sequential(Base()).eval()
    network[0].training = True  # but not the batch norm in it
    return network


def share_weight(m: Any) -> None:
    m.other = nn.Conv2d(3, 3, 3, padding=1).double().eval()
    m.other.weight = m.conv.weight


def move_statistics(m: Any, x: Tensor) -> Tensor:
    m.extra.running_mean.data.add_(1)
    return m.bn(m.conv(x)) + m.extra.running_mean  # type: ignore[no-any-return]


def tensor_made_while_traced(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.conv(x)) + torch.ones(3, 1, 1)  # type: ignore[no-any-return]


HOOK = "forward hooks, which tracing does not see"

REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "training mode of the network": (changed(lambda m: m.train()), "is in training mode"),
    "training mode of the batch norm": (
        changed(lambda m: m.bn.train()),
        "is in training mode, where its output",
    ),
    "training mode of a container": (
        half_trained,
        "^0 is in training mode, where its forward",
    ),
    "the batch norm called twice": (course(lambda m, x: m.bn(m.bn(m.conv(x)))), "it is called 2 times"),
    "the layer called twice": (course(lambda m, x: m.bn(m.conv(m.conv(x)))), "conv is called 2 times"),
    "the output used twice": (
        course(add_twice),
        "the output of conv is used 2 times",
    ),
    "the output returned": (
        course(return_both),
        "the output of conv is used 2 times",
    ),
    "the output changed in place": (
        course(change_after),
        "the output of conv is used 2 times",
    ),
    "an operation between": (course(lambda m, x: m.bn(m.conv(x) + 1)), "not the output of a layer"),
    "an operation in place between": (
        course(lambda m, x: m.bn(m.conv(x).neg_())),
        "not the output of a layer",
    ),
    "an activation between": (
        course(lambda m, x: m.bn(m.act(m.conv(x))), act=nn.ReLU),
        "a ReLU before it cannot absorb",
    ),
    "first in the network": (course(lambda m, x: m.conv(m.bn(x))), "not the output of a layer"),
    "never called": (course(lambda m, x: m.conv(x)), "never called"),
    "a keyword argument": (course(lambda m, x: m.bn(input=m.conv(x))), "not the output of a layer"),
    "a shared weight": (changed(share_weight), "conv.weight is shared with another layer"),
    "a weight used directly": (
        course(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.mean()),
        "conv.weight is also used directly",
    ),
    "a bias used directly": (
        course(lambda m, x: m.bn(m.conv(x)) + m.conv.bias.sum()),
        "conv.bias is also used directly",
    ),
    "a functional call": (
        course(lambda m, x: m.bn(m.conv(x)) + nn.functional.conv2d(x, m.conv.weight, padding=1)),
        "conv.weight is also used directly",
    ),
    "a hook on the layer": (
        changed(lambda m: m.conv.register_forward_hook(lambda *a: 2 * a[-1])),
        f"conv has {HOOK}",
    ),
    "a hook on the batch norm": (
        changed(lambda m: m.bn.register_forward_hook(lambda *a: 2 * a[-1])),
        f"bn has {HOOK}",
    ),
    "a hook before the layer": (
        changed(lambda m: m.conv.register_forward_pre_hook(lambda _, a: (2 * a[0],))),
        f"conv has {HOOK}",
    ),
    "a hook on the network": (
        changed(lambda m: m.register_forward_hook(lambda n, i, y: y + n.conv(i[0]))),
        f"the network itself has {HOOK}",
    ),
    "a replaced forward of the layer": (
        changed(lambda m: replace_forward(m.conv)),
        "conv has a forward of its own",
    ),
    "a replaced forward of the batch norm": (
        changed(lambda m: replace_forward(m.bn)),
        "bn has a forward of its own",
    ),
    "a replaced forward of the network": (
        changed(lambda m: setattr(m, "forward", lambda x: m.bn(m.conv(x)) + m.conv(x))),
        "the network itself has a forward of its own",
    ),
    "a subclass of the layer": (
        lambda: Base(conv=OtherConv(3, 3, 3, padding=1)),
        "not the output of a layer",  # tracing looks into classes that are not torch's
    ),
    "a subclass of the batch norm": (lambda: Base(bn=OtherBatchNorm(3)), "OtherBatchNorm is a subclass"),
    "a parametrized layer": (
        lambda: Base(conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))),
        "ParametrizedConv2d before it cannot absorb",
    ),
    "other channels": (
        course(lambda m, x: m.bn(m.conv(x)), bn=lambda: Published(1, 4)),
        "it has 1 channels, the layer before it 3",
    ),
    "statistics that are not finite": (
        changed(lambda m: m.bn.running_mean.fill_(float("inf"))),
        "running_mean is not finite in 3 channel",
    ),
    "a negative variance": (changed(lambda m: m.bn.running_var.fill_(-1.0)), "running_var . eps is -0.99999"),
    "no statistics": (
        lambda: Base(bn=nn.BatchNorm2d(3, track_running_stats=False)),
        "track_running_stats=False",
    ),
    "an overflow": (changed(overflow), "the folded weights overflow float16"),
    "a course that depends on data": (
        course(lambda m, x: m.bn(m.conv(x)) if x.sum() > 0 else m.bn(x)),
        "cannot be traced symbolically .TraceError",
    ),
    "a course that depends on shapes": (
        course(lambda m, x: m.bn(m.conv(x)) if x.shape[0] > 1 else m.bn(x)),
        "cannot be traced symbolically .TraceError",
    ),
    "a course that depends on types": (course(ask_for_type), "asks for the type of a value"),
    "a course that depends on being a tensor": (course(ask_is_tensor), "asks for the type of a value"),
    "a course that depends on weights": (course(weigh), "course depends on the weights"),
    "a course that depends on a bias": (
        course(branch_on_bias, conv=without_bias),
        "course depends on the weights",
    ),
    "a constant of the forward": (course(tensor_made_while_traced), "makes tensors of its own"),
    "a counter": (course(count), "the forward changes calls"),
    "a memory": (course(remember), "the forward changes last"),
    "statistics changed in the forward": (
        course(move_statistics, extra=lambda: nn.BatchNorm2d(3)),
        "the forward changes extra._buffers.running_mean",
    ),
    "another rank": (
        lambda: hard(nn.Sequential(nn.Conv2d(3, 3, 1), Published(3, 2))),
        "its channels are axis 1 of rank 2, those of the layer before it axis 1 of rank 4",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_a_reason_and_left_alone(name: str) -> None:
    build, reason = REFUSALS[name]
    network = build()
    with untouched(network):
        result = fold(network)
    assert not result.report.folded
    assert sorted(entry.site.batchnorm for entry in result.report.kept) == batchnorms(network)
    assert all(re.search(reason, entry.reason) for entry in result.report.kept), str(result.report)
    x = X.to(next(network.parameters()).dtype)
    assert np.array_equal(output(result.module, x), output(network, x), equal_nan=True)


def test_a_type_without_a_float64_form() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 3, dtype=torch.complex64), nn.BatchNorm2d(3)).eval()
    (entry,) = fold(network).report.kept
    assert "a tensor of torch.complex64 is not one of real numbers" in entry.reason


def test_numbers_that_are_not_there() -> None:
    (entry,) = fold(Base().to("meta")).report.kept
    assert "on the meta device has no values" in entry.reason


def test_one_refusal_does_not_keep_the_others() -> None:
    network = hard(nn.Sequential(Base(bn=OtherBatchNorm(3)), Base(), Base(bn=BatchNorm(3, 4)), Base()))
    network.get_submodule("3.bn").train()
    network.get_buffer("2.bn.moving_var").fill_(2.0)
    result = fold(network)
    assert [entry.site.batchnorm for entry in result.report.folded] == ["1.bn", "2.bn"]
    assert [entry.site.batchnorm for entry in result.report.kept] == ["3.bn", "0.bn"]


def test_the_network_itself_as_a_batch_norm() -> None:
    (entry,) = fold(BatchNorm(3, 2).eval()).report.kept
    assert str(entry.site) == "(the network itself)"
    assert "cannot be traced" in entry.reason


def test_what_cannot_be_copied_is_refused() -> None:
    network = Base()
    network.cache = network.conv.weight * 2
    with pytest.raises(ModelError, match="the network cannot be copied: RuntimeError"):
        fold(network)


def test_a_batch_norm_without_an_outcome_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "_replace", lambda *_: None)
    with pytest.raises(CheckFailed, match="without an outcome"):
        fold(Base())
