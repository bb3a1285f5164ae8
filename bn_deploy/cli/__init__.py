"""The command line: a lazy group of commands, and the one place where errors become exit codes."""

from __future__ import annotations

import io
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FrameType
from typing import Any

import click

from bn_deploy.errors import BnDeployError
from bn_deploy.version import version

COMMANDS: tuple[str, ...] = (
    "train",
    "export",
    "fold",
    "build",
    "verify",
    "bench",
    "run",
    "report",
    "inspect",
    "doctor",
)
"""The commands in the order of the chain; each is `command` in the file of its name."""


@dataclass
class Settings:
    """What the options of any command may change for the whole process, and whether Ctrl-C was pressed."""

    verbose: bool = False
    interrupted: bool = False


class _Commands(click.Group):
    """Loads a command's file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"bn_deploy.cli.{cmd_name}").command
        return command


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(version(), prog_name="bn-deploy")
def group() -> None:
    """Deploy batch-normalized networks: fold every batch norm, export ONNX, build TensorRT, prove it.

    The commands work one after the other on one folder, --run DIR. `bn-deploy run` does them all.
    """


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0 done, 1 a check failed, 2 bad input or usage,
    3 not available here, 4 inconclusive, 130 interrupted. A failure is one line on stderr.
    """  # noqa: D205 - the statuses are the summary
    settings = Settings()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a table's rules are no reason to lose the table
    try:
        with _interrupts_noted(settings):
            result = group.main(arguments, prog_name="bn-deploy", standalone_mode=False, obj=settings)
    except SystemExit:
        return 141  # click leaves so when whoever read our output has gone; shells say so of SIGPIPE
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return 2
    except Exception as error:
        if settings.verbose:
            traceback.print_exc()
        told = click.exceptions.Abort() if settings.interrupted else error
        message, code = next(explain(told) for kind, explain in _EXPLANATIONS if isinstance(told, kind))
        print(f"bn-deploy: {' '.join(message.split())}", file=sys.stderr)
        return code
    return result if isinstance(result, int) else 0


@contextmanager
def _interrupts_noted(settings: Settings) -> Iterator[None]:
    """Remembers Ctrl-C: foreign code, such as PyTorch's exporter, may make an error of its own of it."""

    def note(number: int, frame: FrameType | None) -> None:
        settings.interrupted = True
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # it is ignored, or a caller's own
        yield
        return
    try:
        signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _usage(error: click.ClickException) -> tuple[str, int]:
    hint = (
        f"; see `{error.ctx.command_path} --help`"
        if isinstance(error, click.UsageError) and error.ctx
        else ""
    )
    return f"{error.format_message()}{hint}", 2


def _system(error: OSError) -> tuple[str, int]:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 2


def _internal(error: Exception) -> tuple[str, int]:
    return f"internal error, {type(error).__name__}: {error} (--verbose shows the trace)", 1


_EXPLANATIONS: tuple[tuple[type[Exception], Callable[[Any], tuple[str, int]]], ...] = (
    (BnDeployError, lambda error: (str(error), error.exit_code)),
    (click.exceptions.Abort, lambda _: ("interrupted", 130)),
    (click.ClickException, _usage),
    (OSError, _system),
    (MemoryError, lambda _: ("there is not enough memory for this; take smaller batches", 2)),
    (Exception, _internal),
)
"""What is said about an error, and the exit status; the first row that fits counts."""
