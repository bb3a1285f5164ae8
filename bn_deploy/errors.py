"""Everything that bn-deploy raises on purpose, and the exit code of each branch.

    BnDeployError
    ├── InputError          2  the input or its use is at fault; nothing was overwritten
    │   ├── DataError          a data set's file is missing, damaged or of another kind
    │   ├── CheckpointError    a checkpoint cannot be read, or must not be used
    │   ├── ModelError         a network or an ONNX file that cannot be worked with
    │   └── RunFolderError     a run folder lacks a file, or a file is not the recorded one
    ├── CheckFailed         1  a check did not hold: parity, a postcondition, a regression
    ├── NotAvailable        3  not on this machine; the message says what would make it so
    └── Inconclusive        4  measured, but not enough to decide

Each message is one line for a person. `exit_code` is data: only the command line turns it into a status.
"""

from __future__ import annotations

import re


class BnDeployError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class InputError(BnDeployError):
    """Bad input or usage."""

    exit_code = 2


class DataError(InputError):
    """A data set's file is missing, damaged or of another kind."""


class CheckpointError(InputError):
    """A checkpoint that cannot be read, or that must not be used."""


class ModelError(InputError):
    """A network or an ONNX file that cannot be worked with."""


class RunFolderError(InputError):
    """A run folder lacks a file, or holds one that is not the recorded one."""


class CheckFailed(BnDeployError):
    """A check that must hold does not."""

    exit_code = 1


class NotAvailable(BnDeployError):
    """Something this machine lacks: a driver, a GPU, a package."""

    exit_code = 3


class Inconclusive(BnDeployError):
    """A measurement that does not decide the question."""

    exit_code = 4


def first_line(error: BaseException) -> str:
    """The first line of a foreign error's text without colours, or its type: what fits into one of ours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0]
