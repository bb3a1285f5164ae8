"""Reading a recorded file strictly: exactly these fields, exactly these types.

Types are compared exactly, so that JSON's true is no number and 1 is no 1.0: what is read is what was
written, or it is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bn_deploy.errors import InputError

NULL = type(None)

JSON_NAMES: Mapping[type, str] = {
    str: "a string",
    int: "an integer",
    float: "a decimal number",
    bool: "a boolean",
    list: "a list",
    dict: "an object",
    NULL: "null",
}


def fields(value: object, kinds: Mapping[str, tuple[type, ...]], what: str) -> dict[str, Any]:
    """`value` as a JSON object with exactly the fields of `kinds`, each of one of its types.

    Args:
        value: what `json.loads` returned.
        kinds: the types that each field may have, by name.
        what: the object's name in messages, such as "result 3".

    Raises:
        InputError: it is no object, a field is missing or unknown, or one has another type.
    """
    if not isinstance(value, dict):
        raise InputError(f"{what} must be an object, not {_name(value)}")
    if missing := sorted(kinds.keys() - value.keys()):
        raise InputError(f"{what} lacks {', '.join(missing)}")
    if unknown := sorted(value.keys() - kinds.keys()):
        raise InputError(f"{what} has the unknown fields {', '.join(map(repr, unknown))}")
    for key, allowed in kinds.items():
        if type(value[key]) not in allowed:
            wanted = " or ".join(JSON_NAMES[kind] for kind in allowed)
            raise InputError(f"{what}: {key} must be {wanted}, not {_name(value[key])}")
    return value


def elements(values: list[Any], kind: type, what: str) -> tuple[Any, ...]:
    """The elements of a list, all of type `kind`.

    Raises:
        InputError: one has another type.
    """
    for position, value in enumerate(values):
        if type(value) is not kind:
            raise InputError(f"{what}[{position}] must be {JSON_NAMES[kind]}, not {_name(value)}")
    return tuple(values)


def _name(value: object) -> str:
    return JSON_NAMES.get(type(value), type(value).__name__)
