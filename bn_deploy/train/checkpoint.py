"""Checkpoints: weights and statistics in one safetensors file, with what is needed to rebuild the network.

safetensors holds numbers and one table of strings, and nothing that can run. The strings are one JSON object
under one key, because the library writes several keys in no fixed order: one key makes equal checkpoints
equal bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bn_deploy.artifact import write_bytes
from bn_deploy.batchnorm.flavours import find
from bn_deploy.errors import CheckpointError, InputError
from bn_deploy.model import build

FORMAT = "bn-deploy-checkpoint/1"
_KEY = "bn_deploy"
_ABOUT: dict[str, type] = {
    "format": str,
    "model": str,
    "norm": str,
    "dataset": str,
    "dataset_digest": str,
    "dataset_notice": str,
    "recipe": dict,
    "metrics": dict,
}
"""What the JSON object holds, each key with its type: all of them and nothing else."""
_STATISTICS = ("moving_mean", "moving_var", "running_mean", "running_var")


@dataclass(frozen=True)
class Checkpoint:
    """A network with its origin.

    Attributes:
        network: the network, in eval mode.
        model: its row of MODELS.
        norm: its row of NORMS.
        dataset: name of the data it was trained on.
        dataset_digest: SHA-256 that identifies their content.
        dataset_notice: what must be said about the data; "" if nothing.
        recipe: the hyper-parameters of the training.
        metrics: what the training measured.
    """

    network: nn.Module
    model: str
    norm: str
    dataset: str
    dataset_digest: str
    dataset_notice: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Writes `checkpoint` to `path`, whole or not at all; the same checkpoint gives the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    about = {"format": FORMAT, **{key: getattr(checkpoint, key) for key in _ABOUT if key != "format"}}
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.network.state_dict().items()
    }
    write_bytes(path, save(tensors, metadata={_KEY: json.dumps(about, sort_keys=True, allow_nan=False)}))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint and rebuilds its network, in eval mode.

    The caller's random numbers are not touched.

    Raises:
        CheckpointError: the file is missing, is no safetensors file, was not written by bn-deploy, is of
            another model, holds NaN or infinity, or lacks the batch norms' statistics.
    """
    path = Path(path)
    tensors, about = _read(path)
    try:
        with torch.random.fork_rng(devices=[]):  # a new network draws weights, which are then replaced
            network = build(about["model"], about["norm"])
    except InputError as error:
        raise CheckpointError(f"{path} cannot be rebuilt: {error}") from error
    _check_tensors(path, network.state_dict(), tensors)
    network.load_state_dict(tensors)
    for found in find(network):
        try:
            variance = found.flavour.params(found.module).running_var
        except ValueError as error:
            raise CheckpointError(f"{path}: batch norm {found.path}: {error}") from error
        if variance.min() < 0:
            raise CheckpointError(f"{path}: batch norm {found.path} has a negative variance")
    return Checkpoint(network.eval(), **{key: value for key, value in about.items() if key != "format"})


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file and the JSON object beside them."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder, not a checkpoint")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}; `bn-deploy train` makes one")
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    if _KEY not in metadata:
        raise CheckpointError(
            f"{path} does not say how to rebuild its network (no '{_KEY}' in its header); it is not a "
            "checkpoint of bn-deploy"
        )
    try:
        about = json.loads(metadata[_KEY], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged header: {error}") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not in the format {FORMAT}")
    wrong = [key for key, kind in _ABOUT.items() if type(about.get(key)) is not kind]
    if wrong := wrong + sorted(about.keys() - _ABOUT.keys()):
        raise CheckpointError(f"{path} has a damaged header: {wrong[0]!r} is not what {FORMAT} says")
    return tensors, about


def _refuse_constant(name: str) -> None:
    """Python's JSON reader takes NaN and Infinity, which are no JSON."""
    raise ValueError(f"{name} is not JSON")


def _check_tensors(path: Path, wanted: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    """Checks that `given` is what the network holds: names, shapes, types, finite values."""
    missing = [name for name in wanted if name not in given]
    if lost := [name for name in missing if name.rpartition(".")[2] in _STATISTICS]:
        raise CheckpointError(
            f"{path} lacks batch-norm statistics ({', '.join(lost)}): they were plain attributes, or not "
            "saved. Without them the network is another one; folding with mean 0 and variance 1 would be "
            "wrong. Register them as buffers and save again, or re-estimate them and save"
        )
    unknown = [name for name in given if name not in wanted]
    if missing or unknown:
        what = [f"lacks {name}" for name in missing] + [f"has an unknown {name!r}" for name in unknown]
        raise CheckpointError(f"{path} is of another model: it {what[0]}" + (" ..." if what[1:] else ""))
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise CheckpointError(
                f"{path} is of another model: {name} is {tensor.dtype} {tuple(tensor.shape)}, "
                f"not {wanted[name].dtype} {tuple(wanted[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; the training diverged")
