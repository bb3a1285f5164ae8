"""Batch norms that nobody listed are known by what they do; look-alikes are told from them, and why."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bn_deploy.batchnorm import proof, recognise
from bn_deploy.batchnorm.convert import convert
from bn_deploy.batchnorm.flavours import NATIVE, RECOGNISED, find, suspects
from bn_deploy.batchnorm.holdings import Unlike, held, looks_like_batchnorm
from bn_deploy.batchnorm.last_axis import LastAxisBatchNorm
from bn_deploy.errors import ModelError
from tests.batchnorm.layers import Published, hard_numbers, layer, output, random_input, untouched
from tests.batchnorm.look_alikes import LOOK_ALIKES
from tests.batchnorm.styles import NUMBERS, STYLES, C, Function, Sub, Textbook, Vectors, filled

NETWORK_INPUT = (5, C, 4, 3)


@pytest.mark.parametrize("name", STYLES)
def test_every_style_is_converted(name: str) -> None:
    module = STYLES[name]().eval()
    x = 10 * random_input(*NETWORK_INPUT)
    expected = output(module, x)
    with untouched(module):
        (found,) = find(module)
        converted = convert(module)
    assert found.flavour is RECOGNISED
    assert 4 in found.ranks()
    assert type(converted) in (nn.BatchNorm2d, nn.SyncBatchNorm)
    operands = 1 + sum(np.abs(getattr(NUMBERS, part)).max() for part in ("weight", "bias", "running_mean"))
    scale = np.abs(found.params().affine().scale).max() + 1
    narrow = np.finfo(np.float32 if name in ("computing in float32", "numpy arrays and lists") else float).eps
    # Two orders of one formula, of fewer than sixteen roundings of operands of that size each.
    assert np.abs(output(converted.double(), x) - expected).max() <= 32 * narrow * scale * (
        operands + x.abs().max()
    )


@pytest.mark.parametrize("name", LOOK_ALIKES)
def test_every_look_alike_is_left_alone_and_the_reason_is_named(name: str) -> None:
    make, reason = LOOK_ALIKES[name]
    module = make().eval()
    network = nn.Sequential(nn.Conv2d(3, C, 3), module).eval()
    with untouched(module):
        with pytest.raises(Unlike, match=reason):
            recognise.examine(module)
        assert find(network) == []
        converted = convert(network)
    assert type(converted.get_submodule("1")) is type(module)
    assert [path for path, _ in suspects(network)] == ["1"]


@pytest.mark.parametrize("seed", range(8))
def test_the_map_is_that_of_the_numbers(seed: int) -> None:
    numbers = hard_numbers(7, seed)
    found = recognise.params(layer("recognised", numbers, 4)).affine()
    expected = numbers.affine()
    # Its own numbers are told by their names, and eps to the last digit, so that nothing is rounded twice.
    assert np.array_equal(found.scale, expected.scale)
    assert np.array_equal(found.shift, expected.shift)


@pytest.mark.parametrize("eps", [1e-5, 1e-3, 1e-12, 2e-4, 0.00317, 0.0])
def test_eps_is_found_where_it_stands_in_the_forward(eps: float) -> None:
    module = Function(
        lambda m, x: (x - m.running_mean) / (m.running_var + eps) ** 0.5 * m.weight + m.bias, (C, 1, 1)
    )
    assert recognise.params(module).eps == eps


def test_without_names_the_map_itself_is_kept() -> None:
    params = recognise.params(STYLES["eps outside the root"]())
    assert np.array_equal(params.affine().scale, params.weight)
    assert np.array_equal(params.affine().shift, params.bias)


# ---- what the layer alone does not settle


class Scalar(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class LayerScale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((C,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Dense(Vectors):
    """For (N, C), with a training path that says so."""

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = x.mean(0), x.var(0, unbiased=False)
            self.running_mean.lerp_(mean, 0.1)
            self.running_var.lerp_(var, 0.1)
        return (x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias


def broadcasting(m: Vectors, x: Tensor) -> Tensor:
    return (x - m.running_mean) / torch.sqrt(m.running_var + m.eps) * m.weight + m.bias


def test_a_factor_of_one_number_is_no_batch_norm_of_one_channel() -> None:
    with pytest.raises(Unlike, match="it takes any number of channels"):
        recognise.examine(Scalar())
    assert recognise.recognise(Published(1, 4).eval()) is not None


def test_a_scale_of_the_last_axis_is_no_batch_norm() -> None:
    with pytest.raises(Unlike, match="last axis of its input, which is axis 1 at rank 2 only"):
        recognise.examine(LayerScale())
    assert suspects(LayerScale()) == []


def test_training_tells_the_rank_that_broadcasting_hides() -> None:
    module = Dense().eval()
    assert recognise.examine(module).axes == {2: 1}
    assert type(convert(module)) is nn.BatchNorm1d


@pytest.mark.parametrize("shape", [(4, C), (4, 5, C), (4, C, C), (2, 3, 4, C)])
def test_what_broadcasts_its_vectors_keeps_doing_so(shape: tuple[int, ...]) -> None:
    module = Function(broadcasting).eval()
    found = recognise.examine(module)
    assert found.axes == {2: 1, 3: 2, 4: 3, 5: 4}
    assert found.ranks == (2,)
    converted = convert(module)
    assert type(converted) is LastAxisBatchNorm
    assert type(convert(converted)) is LastAxisBatchNorm
    x = random_input(*shape)
    expected = output(module, x)
    # Either order rounds fewer than eight times, and no operand is larger than the largest scale times ten.
    bound = 16 * np.finfo(float).eps * 10 * np.abs(found.params.affine().scale).max()
    assert np.abs(output(converted, x) - expected).max() <= bound


def test_in_training_mode_only_a_layer_with_statistics_is_converted() -> None:
    assert convert(Textbook().train()).training
    with pytest.raises(ModelError, match=r"itself\) is in training mode, but only its eval mode is known"):
        convert(STYLES["precomputed, addcmul"]().train())


# ---- manners


class Untouchable(nn.Module):
    """No batch norm by its looks: its code must not run."""

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.held = nn.ParameterList(torch.ones(shape) for shape in shapes)

    def forward(self, x: Tensor) -> Tensor:
        pytest.fail("it was run")


@pytest.mark.parametrize("shapes", [[], [()], [(2,), (3,)], [(2, 3)], [(0,)]])
def test_only_candidates_are_run(shapes: list[tuple[int, ...]]) -> None:
    assert find(Untouchable(*shapes)) == []


def test_torchs_own_layers_are_never_run() -> None:
    network = nn.Sequential(
        nn.LayerNorm(4), nn.GroupNorm(2, 4), nn.PReLU(4), nn.InstanceNorm2d(4, affine=True)
    )
    for part in network:
        part.forward = Untouchable.forward
    assert find(network) == []
    assert suspects(network) == []


def test_a_network_that_normalises_its_input_is_no_suspect() -> None:
    network = type("Net", (nn.Sequential,), {})(nn.Conv2d(3, 4, 3))
    network.register_buffer("mean", torch.zeros(1, 3, 1, 1))
    network.register_buffer("std", torch.ones(1, 3, 1, 1))
    vars(network)["config"] = {"mean": (0.5, 0.5), "std": (0.2, 0.2)}
    assert suspects(network) == []


def test_random_numbers_threads_and_grad_are_as_before() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    recognise.recognise(LOOK_ALIKES["noise"][0]())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_a_forward_that_blows_its_input_up_is_stopped() -> None:
    wide = 1000
    largest = 0

    def compute(m: Any, x: Tensor) -> Tensor:
        nonlocal largest
        y = x * m.wide
        largest = max(largest, y.numel())
        return y  # type: ignore[no-any-return]

    module = Function(compute)
    for name in ("weight", "bias", "running_mean", "running_var"):
        delattr(module, name)
    module.wide = nn.Parameter(torch.ones(1, wide, 1, 1))
    assert recognise.examine(module).axes == {4: 1}
    assert largest < wide * wide


def test_a_layer_that_asks_for_grad_is_named() -> None:
    assert recognise.needs_grad_off(STYLES["statistics of the batch if grad is on"]())
    assert recognise.needs_grad_off(Textbook())
    assert not recognise.needs_grad_off(STYLES["F.batch_norm"]())


def test_statistics_are_set_by_their_names_in_their_own_type() -> None:
    module = Published(2, 4)
    recognise.set_statistics(module, torch.tensor([1.0, 2.0]).double(), torch.tensor([3.0, 4.0]).double())
    assert module.moving_mean.dtype is torch.float32
    assert recognise.params(module).running_mean.tolist() == [1.0, 2.0]
    assert recognise.params(module).running_var.tolist() == [3.0, 4.0]
    for name in ("precomputed, addcmul", "numpy arrays and lists"):
        with pytest.raises(ModelError, match=r"which tensors of a .* are its statistics is not known"):
            recognise.set_statistics(STYLES[name](), torch.zeros(C), torch.ones(C))


def test_a_recognised_layer_is_not_proved_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = find(nn.Sequential(Textbook().eval()))
    monkeypatch.setattr(recognise, "examine", None)
    assert found.params().channels == C
    assert found.ranks() == (4,)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, True) for name in ("FrozenBatchNorm2d", "batch_norm", "InPlaceABN", "BnAct", "bn")),
        *((name, False) for name in ("SubNet", "LayerNorm", "Norm", "Ebnf")),
    ],
)
def test_names_of_classes(name: str, says: bool) -> None:
    module = type(name, (LayerScale,), {})()
    assert looks_like_batchnorm(module, held(module)) is says


# ---- mutants: without each part of the proof, a look-alike gets through


def without_step(step: Callable[[proof.Case], None]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(proof, "STEPS", tuple(s for s in proof.STEPS if s is not step))


MUTANTS: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], Callable[[], nn.Module]]] = {
    "no far and near values": (without_step(proof._near_and_far), LOOK_ALIKES["a dead zone about zero"][0]),
    "no other batches": (
        without_step(proof._batches_and_shapes),
        LOOK_ALIKES["another map at one size"][0],
    ),
    "no sizes from its code": (
        without_step(proof._written_sizes),
        LOOK_ALIKES["another map at a size its code names"][0],
    ),
    "no look at what a call leaves": (without_step(proof._again), LOOK_ALIKES["a counter"][0]),
    "no run in the layer's own type": (
        without_step(proof._in_its_own_type),
        LOOK_ALIKES["another map in float32"][0],
    ),
    "not far": (lambda patch: patch.setattr(proof, "FAR", 20), LOOK_ALIKES["a clamp far away"][0]),
    "not near": (lambda patch: patch.setattr(proof, "NEAR", -10), LOOK_ALIKES["a dead zone about zero"][0]),
    "any rounding": (
        lambda patch: patch.setattr(proof, "ROUNDINGS", 1e12),
        LOOK_ALIKES["rounding"][0],
    ),
    "any number of channels": (
        lambda patch: patch.setattr(recognise, "_check_channels", lambda *a, **k: None),
        Scalar,
    ),
    "any axis": (lambda patch: patch.setattr(recognise, "_check_axes", lambda *a, **k: None), LayerScale),
    "any argument": (
        lambda patch: patch.setattr(recognise, "_check_code", lambda module: None),
        LOOK_ALIKES["a second argument"][0],
    ),
    "any input left behind": (
        lambda patch: patch.setattr("bn_deploy.batchnorm.trial.torch.equal", lambda a, b: True),
        LOOK_ALIKES["overwriting its input"][0],
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_every_part_of_the_proof_is_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken, make = MUTANTS[name]
    module = make().eval()
    assert recognise.recognise(module) is None
    weaken(monkeypatch)
    assert recognise.recognise(module) is not None


def test_the_bound_is_no_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "ROUNDINGS", 0)
    assert recognise.recognise(Textbook()) is None


def test_subclasses_of_torchs_layer_are_judged_by_what_they_do() -> None:
    network = nn.Sequential(filled(Sub(C)), nn.BatchNorm2d(C), Sub(C, track_running_stats=False)).eval()
    assert [found.flavour for found in find(network)] == [RECOGNISED, NATIVE]
    ((path, reason),) = suspects(network)
    assert path == "2"
    assert re.search("batch statistics", reason)
