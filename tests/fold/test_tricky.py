"""Networks with dataflow in which a fold could go wrong: whatever is folded, the function is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bn_deploy.errors import ModelError
from bn_deploy.folding.modules.driver import fold
from tests.batchnorm.layers import output, random_input
from tests.fold.checking import assert_faithful, hard

X = random_input(2, 3, 6, 6)


class Net(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.course = forward
        for name, part in parts.items():
            setattr(self, name, part)
        hard(self)

    def forward(self, x: Tensor) -> Any:
        return self.course(self, x)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, padding=1)


def bn() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(3)


def residual(m: Any, x: Tensor) -> Tensor:
    y = m.relu(m.bn1(m.conv1(x)))
    y = m.bn2(m.conv2(y))
    y += x
    return m.relu(y)  # type: ignore[no-any-return]


def shared_buffers() -> nn.Module:
    first, second = bn(), bn()
    second.running_mean, second.running_var = first.running_mean, first.running_var
    return nn.Sequential(conv(), first, nn.ReLU(), conv(), second)


def viewed_weights() -> nn.Module:
    whole = torch.randn(6, 3, 3, 3, dtype=torch.float64)
    network = nn.Sequential(conv(), bn(), nn.ReLU(), conv(), bn())
    hard(network)
    network[0].weight, network[3].weight = nn.Parameter(whole[:3]), nn.Parameter(whole[:3])
    return network


def loop(m: Any, x: Tensor) -> Tensor:
    for layer, norm in zip(m.layers, m.norms, strict=True):
        x = torch.relu(norm(layer(x)))
    return x


def lazy() -> nn.Module:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())
    network(torch.zeros(2, 3, 6, 6))
    return network


def two_branches(m: Any, x: Tensor) -> Tensor:
    return m.bn1(m.conv(x)) + m.bn2(m.conv(x))  # type: ignore[no-any-return]


def one_output_two_norms(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    return m.bn1(y) + m.bn2(y)  # type: ignore[no-any-return]


def in_place_after(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    z = m.bn(y)
    z.mul_(2)
    return z  # type: ignore[no-any-return]


def view_then_in_place(m: Any, x: Tensor) -> Tensor:
    y = m.conv(x)
    flat = y.view(-1)
    z = m.bn(y)
    flat.zero_()
    return z + y  # type: ignore[no-any-return]


def calls_forward(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.conv.forward(x)) + m.conv(x)  # type: ignore[no-any-return]


def plain_list(m: Any, x: Tensor) -> Tensor:
    for layer in m.order:
        x = layer(x)
    return x


def with_plain_list() -> nn.Module:
    network = Net(plain_list, conv=conv(), bn=bn())
    network.order = [network.conv, network.bn]  # type: ignore[assignment]
    return network


def encoder_and_part(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.encoder.linear1(x)) + m.encoder(x)  # type: ignore[no-any-return]


def linear_and_encoder(m: Any, x: Tensor) -> Tensor:
    return m.bn(m.linear(x)) + m.encoder(x)  # type: ignore[no-any-return]


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=4, batch_first=True, dropout=0.0)
    return Net(encoder_and_part, encoder=layer, bn=nn.BatchNorm1d(4))


def norm_inside() -> nn.Module:
    norm = nn.BatchNorm1d(4)
    layer = nn.TransformerEncoderLayer(4, 1, dim_feedforward=4, batch_first=True, dropout=0.0)
    layer.norm1 = norm  # type: ignore[assignment]
    return Net(linear_and_encoder, encoder=layer, bn=norm, linear=nn.Linear(4, 4))


def nested_wrapper(m: Any, x: Tensor) -> Tensor:
    return m.bn(input=m.conv(input=x)) + m.inner(x, scale=2.0)  # type: ignore[no-any-return]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = conv(), bn()

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.bn(self.conv(input=x)) * scale  # type: ignore[no-any-return]


def looks_at_norm(m: Any, x: Tensor) -> Tensor:
    y = m.bn(m.conv(x))
    return y * 2 if isinstance(m.bn, nn.BatchNorm2d) else y  # type: ignore[no-any-return]


def mutates_flag(m: Any, x: Tensor) -> Tensor:
    m.bn.train(mode=False)
    y = m.conv(x)
    m.seen.append(x.shape)
    return m.bn(y)  # type: ignore[no-any-return]


def reused_block(m: Any, x: Tensor) -> Tensor:
    return m.block(m.block(x))  # type: ignore[no-any-return]


def no_affine() -> nn.Module:
    return nn.Sequential(
        conv(), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2)
    )


def captures(m: Any, x: Tensor) -> Tensor:
    y = m.features(x)
    return m.bn(y) + m.kept[-1]  # type: ignore[no-any-return]


def captured() -> nn.Module:
    network = Net(captures, features=nn.Sequential(conv()), bn=bn())
    network.kept = []  # type: ignore[assignment]
    network.features.register_forward_hook(lambda m, i, y: m.kept_by.append(y))  # type: ignore[union-attr]
    network.features.kept_by = network.kept  # type: ignore[union-attr]
    return network


def multihead(m: Any, x: Tensor) -> Tensor:
    y = m.attention(x, x, x, need_weights=False)[0]
    return m.bn(m.attention.out_proj(y)) + y  # type: ignore[no-any-return]


def attention() -> nn.Module:
    return Net(multihead, attention=nn.MultiheadAttention(4, 1, batch_first=True), bn=nn.BatchNorm1d(4))


SEQUENCE = random_input(2, 4, 4)

# What is built, on which input it runs, and how many batch norms are folded.
TRICKY: dict[str, tuple[Callable[[], nn.Module], Tensor, int]] = {
    "residual, added in place": (
        lambda: Net(residual, conv1=conv(), bn1=bn(), conv2=conv(), bn2=bn(), relu=nn.ReLU(inplace=True)),
        X,
        2,
    ),
    "buffers shared between batch norms": (shared_buffers, X, 2),
    "weights that are views of one tensor": (viewed_weights, X, 2),
    "ModuleLists in a loop": (
        lambda: Net(
            loop, layers=nn.ModuleList(conv() for _ in range(3)), norms=nn.ModuleList(bn() for _ in range(3))
        ),
        X,
        3,
    ),
    "lazy modules that have run": (lazy, X, 1),
    "batch norms without weights": (no_affine, X, 2),
    "a layer in two branches": (lambda: Net(two_branches, conv=conv(), bn1=bn(), bn2=bn()), X, 2),
    "one output, two batch norms": (lambda: Net(one_output_two_norms, conv=conv(), bn1=bn(), bn2=bn()), X, 0),
    "the result changed in place": (lambda: Net(in_place_after, conv=conv(), bn=bn()), X, 1),
    "a view changed in place": (lambda: Net(view_then_in_place, conv=conv(), bn=bn()), X, 0),
    "forward called by name": (lambda: Net(calls_forward, conv=conv(), bn=bn()), X, 0),
    "layers in a plain list": (with_plain_list, X, 0),
    "a layer that is also inside another": (encoder, SEQUENCE, 0),
    "a batch norm that is also inside another layer": (norm_inside, SEQUENCE, 0),
    "a projection inside attention": (attention, SEQUENCE, 0),
    "keyword arguments": (lambda: Net(nested_wrapper, conv=conv(), bn=bn(), inner=Scaled()), X, 2),
    "a forward that looks at its batch norm": (lambda: Net(looks_at_norm, conv=conv(), bn=bn()), X, 0),
    "a forward that keeps a list": (lambda: Net(mutates_flag, conv=conv(), bn=bn(), seen=[]), X, 0),
    "a block called twice": (lambda: Net(reused_block, block=nn.Sequential(conv(), bn())), X, 1),
    "a container's hook that keeps its output": (captured, X, 0),
    "an unbatched image where rows are channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm1d(6)),
        random_input(3, 6, 4),
        0,
    ),
}


@pytest.mark.parametrize("name", TRICKY)
def test_the_function_is_the_same(name: str) -> None:
    build, x, folded = TRICKY[name]
    result = assert_faithful(hard(build()), x)
    assert len(result.report.folded) == folded, str(result.report)


def test_lazy_modules_that_never_ran_are_refused() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d()).eval()
    with pytest.raises(ModelError, match=r"0\.weight has no values yet; run the network once"):
        fold(network)


def test_the_input_of_the_network_is_not_changed() -> None:
    network = hard(nn.Sequential(conv(), bn(), nn.ReLU(inplace=True)))
    x = X.clone()
    output(fold(network, (x,)).module, x)
    assert torch.equal(x, X)
