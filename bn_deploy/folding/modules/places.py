"""Where in the code of a forward something happens, and what that code does with it."""

from __future__ import annotations

import dis
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from bn_deploy.batchnorm.written import whole_numbers
from bn_deploy.folding.modules.course import Place

_HERE = __name__.partition(".")[0]
"""Layers of this package stand for those of others, and know what they ask."""


def place() -> Place:
    """The place in the forward of a module that asks now; torch's functions on the way there do not count."""
    found = []
    for frame in _frames():
        if frame.f_code.co_name == "_call_impl":
            break
        if not _is_of(frame, _HERE, "torch"):
            found.append(_instruction(frame))
    return tuple(found)


def _frames() -> Iterator[FrameType]:
    """The functions that run now, the innermost first."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def _instruction(frame: FrameType) -> tuple[str, int, int]:
    return frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti


def _package(frame: FrameType) -> str:
    """The package that code is part of."""
    return str(frame.f_globals.get("__name__")).partition(".")[0]


def _is_of(frame: FrameType, *packages: str) -> bool:
    """Whether code is part of one of some packages."""
    return _package(frame) in packages


def is_torch_asking() -> bool:
    """Whether it is torch's own code that asks now, perhaps through Python's library, or a logger."""
    for frame in _frames():
        package = _package(frame)
        if package in ("logging", "torch", "warnings"):
            return True
        if package != _HERE and package not in _LIBRARY:
            return False
    return True


_LIBRARY = sys.stdlib_module_names - {"__main__"}


def numbers_in_code() -> set[int | float]:
    """The numbers that are written in the function that asks now, and those in their middle."""
    frame = next((frame for frame in _frames() if not _is_of(frame, _HERE, "torch")), None)
    constants = () if frame is None else frame.f_code.co_consts
    found: list[Any] = sorted({constant for constant in constants if type(constant) in (int, float)})[:_SOME]
    return {*found, *((a + b) / 2 for a, b in pairwise(found))}


_SOME = 4
"""How many numbers of a function are tried as an answer."""


def whole_numbers_in_code() -> set[int]:
    """The whole numbers in the functions that ask now, also those inside texts and collections."""
    frames = (frame for frame in _frames() if not _is_of(frame, _HERE, "torch"))
    frame = next(frames, None)
    return set() if frame is None else set(whole_numbers(frame.f_code.co_consts))


def is_thrown_away() -> bool:
    """Whether the text that is being made now is only told to someone: what takes it gives nothing back.

    That is a call whose result is dropped, such as that of a logger, or of an assertion with its message.
    """
    frame = next((frame for frame in _frames() if not _is_of(frame, _HERE)), None)
    if frame is None or _is_of(frame, "torch", "logging", "warnings"):
        return True
    for step in dis.get_instructions(frame.f_code):
        if step.offset <= frame.f_lasti:
            continue
        if step.opname in ("POP_TOP", "RAISE_VARARGS"):
            return True
        if not step.opname.startswith(_STRAIGHT):
            return False
    return False


_STRAIGHT = (
    *(
        "BINARY_ADD",
        "BINARY_MODULO",
        "BINARY_OP",
        "BINARY_SUBSCR",
        "BUILD_",
        "CACHE",
        "CALL",
        "CONVERT_VALUE",
        "COPY",
        "FORMAT_",
    ),
    *("KW_NAMES", "LIST_", "LOAD_", "PRECALL", "PUSH_NULL", "SWAP"),
)
"""Instructions that compute something without keeping it or deciding by it."""


def catching_place() -> Place | None:
    """The place in the forward from which an error that is raised now would be caught, if there is one."""
    found: list[tuple[str, int, int]] | None = None
    for frame in _frames():
        name = str(frame.f_globals.get("__name__"))
        if frame.f_code.co_name == "observe" and name.startswith(_HERE):
            break
        if name.partition(".")[0] in (_HERE, "torch"):
            continue
        if found is None and any(start <= frame.f_lasti < end for start, end in _caught(frame.f_code)):
            found = [("an error is caught", 0, 0)]
        if found is not None:
            found.append(_instruction(frame))
    return None if found is None else tuple(found)


_known: dict[int, tuple[CodeType, tuple[tuple[int, int], ...]]] = {}


def _caught(code: CodeType) -> tuple[tuple[int, int], ...]:
    """The parts of a function (first instruction, the one after the last) from which errors are caught."""
    if id(code) not in _known:  # to hash code takes longer than to look at it
        _known[id(code)] = code, tuple(_parts(code))
    return _known[id(code)][1]


def _parts(code: CodeType) -> Iterator[tuple[int, int]]:
    shown = dis.Bytecode(code)
    steps = list(shown)
    if sys.version_info < (3, 11):
        tried = [(s.offset, s.argval, s.argval) for s in steps if s.opname in ("SETUP_FINALLY", "SETUP_WITH")]
    else:
        tried = [(e.start, e.end, e.target) for e in shown.exception_entries]
    for start, end, target in tried:
        handler = [step.opname for step in steps if step.offset >= target]
        if _catches(handler, suppresses="suppress" in code.co_names):
            yield start, end


def _catches(handler: list[str], *, suppresses: bool) -> bool:
    """Whether what follows an error is an `except`, and no `finally` or `with`."""
    if sys.version_info >= (3, 11) and handler[:1] != ["PUSH_EXC_INFO"]:
        return False
    if "WITH_EXCEPT_START" in handler[:2]:
        return suppresses
    known = (
        n
        for n in handler
        if n in ("CHECK_EXC_MATCH", "CHECK_EG_MATCH", "JUMP_IF_NOT_EXC_MATCH", "POP_EXCEPT", "RERAISE")
    )
    return next(known, "RERAISE") != "RERAISE"


def is_raised_on_purpose(error: BaseException) -> bool:
    """Whether an error comes from a `raise` or `assert` in code that is not torch's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    frame = trace.tb_frame
    step = next((s for s in dis.get_instructions(frame.f_code) if s.offset == trace.tb_lasti), None)
    purpose = step is not None and step.opname == "RAISE_VARARGS"
    return purpose and (not _is_of(frame, _HERE, "torch") or frame.f_code.co_name == "_assert")
