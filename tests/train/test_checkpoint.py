from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from bn_deploy.errors import CheckpointError
from bn_deploy.model import MODELS, NORMS, build
from bn_deploy.train.checkpoint import FORMAT, Checkpoint, load_checkpoint, save_checkpoint
from tests.lenets import trained

ABOUT: dict[str, Any] = {
    "format": FORMAT,
    "model": "lenet",
    "norm": "custom",
    "dataset": "synthetic",
    "dataset_digest": "0" * 64,
    "dataset_notice": "drawn, not photographed",
    "recipe": {"lr": 1.0, "epochs": 3},
    "metrics": {"test_accuracy": 0.5},
}


Spoil = Callable[[dict[str, Tensor]], object]


def checkpoint(norm: str = "custom") -> Checkpoint:
    about = {key: value for key, value in ABOUT.items() if key not in ("format", "norm")}
    return Checkpoint(network=trained(norm), norm=norm, **about)


def tensors() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trained().state_dict().items()}


def written(path: Path, weights: dict[str, Tensor], header: object) -> Path:
    text = header if isinstance(header, str) else json.dumps(header)
    path.write_bytes(save(weights, metadata={"bn_deploy": text}))
    return path


def refused(path: Path) -> str:
    """What a person is told; always one line that names the file."""
    with pytest.raises(CheckpointError) as refusal:
        load_checkpoint(path)
    said = str(refusal.value)
    assert "\n" not in said
    assert str(path) in said
    return said.replace(str(path), "FILE")


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("model", [row.name for row in MODELS])
def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, model: str, norm: str) -> None:
    network = build(model, norm)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) if tensor.is_floating_point() else tensor + 7)
    given = dataclasses.replace(checkpoint(norm), network=network.train(), model=model)
    save_checkpoint(tmp_path / "c.safetensors", given)
    state = torch.get_rng_state()
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module.training for module in loaded.network.modules())
    assert loaded.network.state_dict().keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    assert dataclasses.replace(loaded, network=network) == given
    assert network.training  # what was given is left alone


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    save_checkpoint(one, checkpoint())
    # The same content, put together in another order.
    recipe = dict(reversed(checkpoint().recipe.items()))
    save_checkpoint(other, dataclasses.replace(checkpoint(), recipe=recipe))
    assert one.read_bytes() == other.read_bytes()
    save_checkpoint(other, load_checkpoint(one))
    assert one.read_bytes() == other.read_bytes()


def test_a_checkpoint_is_plain_safetensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", checkpoint())
    assert load_file(tmp_path / "c.safetensors").keys() == trained().state_dict().keys()


class _Bomb:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_refused_and_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"c{suffix}"
    if how == "pickle":
        path.write_bytes(pickle.dumps(_Bomb()))
    else:
        torch.save({"weights": _Bomb()}, path)
    assert refused(path).startswith("FILE is not a readable safetensors file: ")
    assert not (tmp_path / "exploded").exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())  # noqa: S301 - shows that the bomb works
        assert (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"these are not the weights you are looking for",
        lambda data: data[:4],
        lambda data: data[:40],
        lambda data: data[:-1],
        lambda data: data + b"\0",
    ],
    ids=["empty", "text", "4 bytes", "in the header", "last byte", "one byte more"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, checkpoint())
    path.write_bytes(damage(path.read_bytes()))
    assert refused(path).startswith("FILE is not a readable safetensors file: ")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == "there is no checkpoint FILE; `bn-deploy train` makes one"
    assert refused(tmp_path) == "FILE is a folder, not a checkpoint"


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file(tensors(), path, metadata=metadata)
        assert refused(path).endswith("(no 'bn_deploy' in its header); it is not a checkpoint of bn-deploy")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("not json", "FILE has a damaged header: Expecting value"),
        ("[" * 100_000, "FILE has a damaged header: maximum recursion depth"),
        (json.dumps(ABOUT).replace("0.5", "NaN"), "FILE has a damaged header: NaN is not JSON"),
        ([ABOUT], f"FILE is not in the format {FORMAT}"),
        ("null", f"FILE is not in the format {FORMAT}"),
        ({**ABOUT, "format": "bn-deploy-checkpoint/2"}, f"FILE is not in the format {FORMAT}"),
        ({key: ABOUT[key] for key in ABOUT if key != "format"}, f"FILE is not in the format {FORMAT}"),
        (
            {key: ABOUT[key] for key in ABOUT if key != "norm"},
            "FILE has a damaged header: 'norm' is not what",
        ),
        ({**ABOUT, "surprise": 1}, "FILE has a damaged header: 'surprise' is not what"),
        ({**ABOUT, "model": ["lenet"]}, "FILE has a damaged header: 'model' is not what"),
        ({**ABOUT, "dataset": None}, "FILE has a damaged header: 'dataset' is not what"),
        ({**ABOUT, "recipe": []}, "FILE has a damaged header: 'recipe' is not what"),
        ({**ABOUT, "metrics": 1}, "FILE has a damaged header: 'metrics' is not what"),
        ({**ABOUT, "model": "alexnet"}, "FILE cannot be rebuilt: unknown model 'alexnet'; there are lenet"),
        ({**ABOUT, "norm": "layer"}, "FILE cannot be rebuilt: unknown norm 'layer'; there are custom, torch"),
        ({**ABOUT, "norm": "torch"}, "FILE lacks batch-norm statistics (1.running_mean, "),
    ],
)
def test_a_header_that_does_not_say_how_to_rebuild_the_network_is_refused(
    tmp_path: Path, header: object, said: str
) -> None:
    assert refused(written(tmp_path / "c.safetensors", tensors(), header)).startswith(said)


def _set(name: str, value: float) -> Spoil:
    return lambda weights: weights[name].view(-1)[1:2].fill_(value)


def _cast(name: str, dtype: torch.dtype) -> Spoil:
    return lambda weights: weights.update({name: weights[name].to(dtype)})


def _reshape(name: str, *shape: int) -> Spoil:
    return lambda weights: weights.update({name: torch.zeros(shape)})


def _drop(*names: str) -> Spoil:
    return lambda weights: [weights.pop(name) for name in names]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_drop("0.weight"), "FILE is of another model: it lacks 0.weight"),
        (_drop("0.weight", "1.gamma"), "FILE is of another model: it lacks 0.weight ..."),
        (_reshape("extra\n", 1), "FILE is of another model: it has an unknown 'extra\\n'"),
        (
            _reshape("0.weight", 6, 1, 3, 3),
            "FILE is of another model: 0.weight is torch.float32 (6, 1, 3, 3), not torch.float32 (6, 1, 5, ",
        ),
        (
            _reshape("1.moving_var", 6),
            "FILE is of another model: 1.moving_var is torch.float32 (6,), not torch.float32 (1, 6, 1, 1)",
        ),
        (
            _cast("15.bias", torch.float64),
            "FILE is of another model: 15.bias is torch.float64 (10,), not torch.float32 (10,)",
        ),
        (_set("9.weight", float("nan")), "FILE: 9.weight holds NaN or infinity; the training diverged"),
        (_set("13.moving_mean", float("-inf")), "FILE: 13.moving_mean holds NaN or infinity; the training"),
        (_set("5.moving_var", -1.0), "FILE: batch norm 5: running_var + eps is -0.99999 in some channel"),
        # eps would hide it: no training gives a variance below zero.
        (_set("5.moving_var", -1e-6), "FILE: batch norm 5 has a negative variance"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, spoil: Spoil, said: str) -> None:
    weights = tensors()
    spoil(weights)
    assert refused(written(tmp_path / "c.safetensors", weights, ABOUT)).startswith(said)


@pytest.mark.parametrize("lost", [("1.moving_var",), ("1.moving_mean", "1.moving_var", "10.moving_mean")])
def test_lost_statistics_have_a_message_of_their_own(tmp_path: Path, lost: tuple[str, ...]) -> None:
    """They must never be made up: mean 0 and variance 1 would give another network."""
    weights = tensors()
    _drop(*lost, "0.bias")(weights)  # whatever else is missing, this is what matters
    said = refused(written(tmp_path / "c.safetensors", weights, ABOUT))
    assert said.startswith(
        f"FILE lacks batch-norm statistics ({', '.join(lost)}): they were plain attributes"
    )
    assert "folding with mean 0 and variance 1 would be wrong" in said


@pytest.mark.parametrize("before", [None, b"the old one"])
def test_a_checkpoint_whose_writer_dies_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    path = tmp_path / "c.safetensors"
    if before is not None:
        path.write_bytes(before)

    def die(self: Path, target: Path) -> Path:
        """Death at the last moment: everything is written, nothing has its name yet."""
        assert self != path
        assert self.stat().st_size > 100_000
        assert (path.read_bytes() if path.exists() else None) == before
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, checkpoint())
    assert (path.read_bytes() if path.exists() else None) == before
