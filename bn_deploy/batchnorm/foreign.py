"""Other people's modules: copied, and searched for code that their class does not show."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from bn_deploy.errors import ModelError


def copied(network: nn.Module) -> nn.Module:
    """A deep copy of `network`.

    Raises:
        ModelError: it holds something that cannot be copied; the text says what.
    """
    return _copied(network, {})


def twin(network: nn.Module) -> nn.Module:
    """A copy that holds the same parameters and buffers: to be run, or to be given others.

    Raises:
        ModelError: as `copied`.
    """
    held = (t for m in network.modules() for t in (*m._parameters.values(), *m._buffers.values()))
    return _copied(network, {id(tensor): tensor for tensor in held if tensor is not None})


def _copied(network: nn.Module, shared: dict[int, Tensor]) -> nn.Module:
    """A deep copy that shares some tensors."""
    computed = {
        id(value): value.detach().clone()
        for module in network.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf  # as weight norm keeps; torch refuses to copy it
    }
    try:
        return copy.deepcopy(network, {**computed, **shared})
    except Exception as error:  # whatever the network holds decides what is raised
        raise ModelError(f"the network cannot be copied: {first_line(error)}") from error


def added_code(module: nn.Module) -> str | None:
    """The code that was added to `module` from outside and runs in its call, or None."""
    if module._forward_hooks or module._forward_pre_hooks:
        return "forward hooks"
    if "forward" in vars(module):
        return "a forward of its own, put there from outside"
    return None


def first_line(error: Exception) -> str:
    """The type of `error` and the first line of its text."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
