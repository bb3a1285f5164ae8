"""Each refusal on a network that differs in one thing from one that is folded."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm.custom import BatchNorm
from bn_deploy.errors import CheckFailed, ModelError
from bn_deploy.folding.modules import courses
from bn_deploy.folding.modules.driver import fold
from bn_deploy.folding.modules.sites import Sites
from bn_deploy.folding.outcome import FoldReport
from tests.batchnorm.layers import Published, output, random_input, untouched
from tests.fold.base import Base, X
from tests.fold.checking import assert_faithful, batchnorms, hard


def changed(
    change: Callable[[Any], object], forward: Callable[[Any, Tensor], Any] | None = None
) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        network = Base(forward)
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
    return m.bn(y) if isinstance(x, Tensor) else m.bn(y) + y  # type: ignore[no-any-return]


def ask_twice(m: Any, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x))
    y = y if x.sum() > 0 else -y
    return y if x.mean() > 1 else y + 1  # type: ignore[no-any-return]


def move_buffer(m: Any, x: Tensor) -> Tensor:
    m.total += 1
    return m.bn(m.conv(x)) * m.total  # type: ignore[no-any-return]


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


FOLDS: dict[str, Callable[[], nn.Module]] = {
    "as it is": Base,
    "the batch norm called twice": course(lambda m, x: m.bn(m.bn(m.conv(x)))),
    "the layer called twice": course(lambda m, x: m.bn(m.conv(m.conv(x)))),
    "an operation between": course(lambda m, x: m.bn(m.conv(x) + 1)),
    "an operation in place between": course(lambda m, x: m.bn(m.conv(x).neg_())),
    "a functional call": course(lambda m, x: m.bn(nn.functional.conv2d(x, m.conv.weight, m.conv.bias))),
    "a keyword argument": course(lambda m, x: m.bn(input=m.conv(x))),
    "a shared weight that only one uses": changed(share_weight),
    "a hook on the layer": changed(lambda m: m.conv.register_forward_hook(lambda *a: 2 * a[-1])),
    "a hook before the layer": changed(lambda m: m.conv.register_forward_pre_hook(lambda _, a: (2 * a[0],))),
    "a hook on the network": changed(lambda m: m.register_forward_hook(lambda n, i, y: y + i[0])),
    "a shared weight that both use": changed(share_weight, lambda m, x: m.bn(m.conv(x)) + m.other(x)),
    "a parametrized layer": lambda: Base(
        conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3, padding=1))
    ),
    "a constant of the forward": course(lambda m, x: m.bn(m.conv(x) + torch.ones(3, 1, 1))),
    "an answer that changes nothing": course(lambda m, x: m.bn(m.conv(x)) * (2 if x.sum() > 0 else 1)),
    "a type that is asked for": course(ask_for_type),
}
"""What is close to a refusal and folds all the same."""


@pytest.mark.parametrize("name", FOLDS)
def test_folded_all_the_same(name: str) -> None:
    assert len(assert_faithful(FOLDS[name](), X).report.folded) == 1


REFUSALS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "training mode of the network": (changed(lambda m: m.train()), "is in training mode"),
    "training mode of the batch norm": (
        changed(lambda m: m.bn.train()),
        "is in training mode, where its output",
    ),
    "training mode of a container": (half_trained, "^0 is in training mode, where its forward"),
    "the output used twice": (course(add_twice), "conv is used 2 times"),
    "the output returned": (course(return_both), "conv is used 2 times"),
    "the output changed in place": (course(change_after), "conv is used 2 times"),
    "an activation between": (
        course(lambda m, x: m.bn(m.act(m.conv(x))), act=nn.ReLU),
        "a shift does not pass relu in act",
    ),
    "before zero padding": (course(lambda m, x: m.conv(m.bn(x))), "conv pads its input with zeros"),
    "never called": (course(lambda m, x: m.conv(x)), "never called"),
    "a weight used directly": (
        course(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.mean()),
        "conv.weight is also used directly",
    ),
    "a bias used directly": (
        course(lambda m, x: m.bn(m.conv(x)) + m.conv.bias.sum()),
        "the bias of conv is also used directly",
    ),
    "a weight used by a function": (
        course(lambda m, x: m.bn(m.conv(x)) + nn.functional.conv2d(x, m.conv.weight, padding=1)),
        "its uses need different weights",
    ),
    "a hook on the batch norm": (
        changed(lambda m: m.bn.register_forward_hook(lambda *a: 2 * a[-1])),
        "it has forward hooks",
    ),
    "a hook on the network that uses the layer": (
        changed(lambda m: m.register_forward_hook(lambda n, i, y: y + n.conv(i[0]))),
        "its uses need different weights",
    ),
    "a replaced forward of the layer": (
        changed(lambda m: replace_forward(m.conv)),
        "conv computes its weight and has code added to it",
    ),
    "a replaced forward of the batch norm": (
        changed(lambda m: replace_forward(m.bn)),
        "it has a forward of its own, put there from outside",
    ),
    "a subclass of the layer that does more": (
        lambda: Base(conv=OtherConv(3, 3, 3, padding=1)),
        "pow in conv, a aten.pow, neither absorbs",
    ),
    "a subclass of the batch norm that does more": (
        lambda: Base(bn=OtherBatchNorm(3)),
        "bn does more than normalize and activate: aten.pow",
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
        "only 1 of its 2 observed calls",
    ),
    "a course that depends on shapes": (
        course(lambda m, x: m.bn(m.conv(x)) if x.shape[0] > 1 else m.bn(x)),
        "only . of its . observed calls",
    ),
    "a number read from weights": (course(weigh), "conv.weight is also used directly"),
    "a course that depends on a bias": (
        course(branch_on_bias, conv=without_bias),
        "after folding, the forward would use other numbers|no bias that could take",
    ),
    "a number by chance": (
        course(lambda m, x: m.bn(m.conv(x) + torch.rand(3, 1, 1))),
        "neither absorbs|scaled",
    ),
    "a counter": (course(count), "the forward changes calls"),
    "a memory": (course(remember), "the forward changes last"),
    "statistics changed in the forward": (
        course(move_statistics, extra=lambda: nn.BatchNorm2d(3)),
        "the forward writes to a tensor that it keeps",
    ),
    "a buffer changed in the forward": (course(move_buffer), "the forward writes to total"),
    "another rank": (
        lambda: hard(nn.Sequential(nn.Conv2d(3, 3, 1), Published(3, 2))),
        "in eval mode it is no affine map of each channel",
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
    outputs = []
    for module in (network, result.module):
        torch.manual_seed(0)
        outputs.append(output(module, x))
    assert np.array_equal(outputs[0], outputs[1], equal_nan=True)


def test_too_many_questions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courses, "MOST", 1)
    (entry,) = fold(Base(ask_twice), X).report.kept
    assert "asks its inputs so many questions that 1 runs do not answer all" in entry.reason


def test_a_question_in_a_loop_is_one() -> None:
    """As where the results are decoded: the number of questions is that of the places that ask."""

    def decode(m: Any, x: Tensor) -> Tensor:
        y = m.bn(m.conv(x))
        return y * sum(1 for value in y[0, 0, 0] if value > 0)  # type: ignore[no-any-return]

    assert len(assert_faithful(Base(decode), X).report.folded) == 1


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
    (entry,) = fold(BatchNorm(3, 2).eval(), (random_input(2, 3).float(),)).report.kept
    assert str(entry.site) == "(the network itself)"
    assert "an input of the network" in entry.reason


def test_what_cannot_be_copied_is_refused() -> None:
    network: Any = Base()
    network.lock = threading.Lock()
    with pytest.raises(ModelError, match="the network cannot be copied: TypeError"):
        fold(network)


def test_a_batch_norm_without_an_outcome_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sites, "report", lambda *_: FoldReport((), ()))
    with pytest.raises(CheckFailed, match="without an outcome"):
        fold(Base())
