"""Other people's modules: copied, and searched for code that their class does not show."""

from __future__ import annotations

import copy

from torch import nn

from bn_deploy.errors import ModelError


def copied(network: nn.Module) -> nn.Module:
    """A deep copy of `network`.

    Raises:
        ModelError: it holds something that cannot be copied; the text says what.
    """
    try:
        return copy.deepcopy(network)
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
