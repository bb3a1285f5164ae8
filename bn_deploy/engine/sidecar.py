"""The JSON beside a plan: what it was built from, how, and where it may run.

A plan says nothing of itself that can be read without TensorRT, and TensorRT refuses a foreign plan only
after it was started, with a message about an internal error. The plan's file stays as TensorRT made it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bn_deploy.artifact import sha256_bytes, write_json
from bn_deploy.engine.driver import capability
from bn_deploy.errors import InputError
from bn_deploy.spec import BatchRange, Precision, TensorSpec

FORMAT = "bn-deploy-plan/2"

REBUILD = "build it again with `bn-deploy build`"


def sidecar_path(plan_path: Path) -> Path:
    """Where the side-car of the plan at `plan_path` lies."""
    return plan_path.with_name(plan_path.name + ".json")


@dataclass(frozen=True)
class Sidecar:
    """What is known of a plan. Two builds of the same thing on the same machine give equal ones.

    Attributes:
        plan_sha256: digest of the plan's file.
        plan_bytes: its size.
        onnx_sha256: digest of the ONNX file that it was built from.
        origin: what the ONNX file says of where its network comes from.
        package_version: the version of bn-deploy that built it.
        tensorrt: the module that built it, "tensorrt" or "tensorrt_rtx"; no other one can load it, but for
            the lean runtime of the same TensorRT.
        tensorrt_version: its version; the plan loads on no other, unless it is version-compatible.
        systems: the operating systems it runs on.
        architecture: the processor family of the host.
        compute_capabilities: the GPUs it runs on; "8.6" is that one, "8.0+" that one and all later ones.
        gpu: the GPU it was tuned on; None if it was built without one.
        settings: the builder's settings as read back from it, by name: TensorRT's enum values differ
            between versions.
        profiles: the batch sizes it accepts, a range for each optimisation profile.
        precision: the number format it computes in, read back from the engine, or else from the network.
        layers: how many layers of the parsed network compute in each format.
        engine_layers: how many layers of the engine do, which TensorRT made of those by fusing them; None
            where the engine was not read: without a GPU, or if it does not tell.
        inputs: what it takes.
        outputs: what it gives.
    """

    plan_sha256: str
    plan_bytes: int
    onnx_sha256: str
    origin: Mapping[str, str]
    package_version: str
    tensorrt: str
    tensorrt_version: str
    systems: tuple[str, ...]
    architecture: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    settings: Mapping[str, Any]
    profiles: tuple[BatchRange, ...]
    precision: Precision
    layers: Mapping[Precision, int]
    engine_layers: Mapping[Precision, int] | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def typed(self) -> bool:
        """Whether the builder had to keep the graph's types (else it was allowed to lower them)."""
        return self.settings.get("typing") == "strong"

    @property
    def version_compatible(self) -> bool:
        """Whether later versions of TensorRT load it."""
        return "VERSION_COMPATIBLE" in self.settings.get("flags", ())

    @property
    def carries_host_code(self) -> bool:
        """Whether it holds code that runs on the host: the lean runtime of a version-compatible plan."""
        return self.version_compatible and not self.needs_lean_runtime

    @property
    def needs_lean_runtime(self) -> bool:
        """Whether its lean runtime was left out, and must come from elsewhere."""
        return "EXCLUDE_LEAN_RUNTIME" in self.settings.get("flags", ())

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads."""
        return {
            "format": FORMAT,
            "plan_sha256": self.plan_sha256,
            "plan_bytes": self.plan_bytes,
            "onnx_sha256": self.onnx_sha256,
            "origin": dict(self.origin),
            "package_version": self.package_version,
            "tensorrt": self.tensorrt,
            "tensorrt_version": self.tensorrt_version,
            "systems": list(self.systems),
            "architecture": self.architecture,
            "compute_capabilities": list(self.compute_capabilities),
            "gpu": self.gpu,
            "settings": dict(self.settings),
            "profiles": [[batch.minimum, batch.optimum, batch.maximum] for batch in self.profiles],
            "precision": self.precision.value,
            "layers": _census_to_json(self.layers),
            "engine_layers": None if self.engine_layers is None else _census_to_json(self.engine_layers),
            "inputs": [_spec_to_json(spec) for spec in self.inputs],
            "outputs": [_spec_to_json(spec) for spec in self.outputs],
        }

    @classmethod
    def from_json(cls, value: Any) -> Sidecar:
        """Reads what `to_json` gives, and nothing else.

        Raises:
            ValueError: a field is missing, unknown, or not of its kind; the message names it.
        """
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")  # noqa: TRY004 - a file's content, not a caller's type
        if value.get("format") != FORMAT:
            raise ValueError(f"its format is {value.get('format')!r}, not {FORMAT!r}")
        if (unlike := set(value) ^ {"format", *_FIELDS}) != set():
            name = min(unlike)
            raise ValueError(f"it {'has the unknown' if name in value else 'lacks the'} field {name!r}")
        fields = {}
        for name, read in _FIELDS.items():
            try:
                fields[name] = read(value[name])
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(f"its field {name!r} is malformed") from error
        return cls(**fields)


def write(plan_path: Path, sidecar: Sidecar) -> Path:
    """Writes the side-car of the plan at `plan_path`, whole or not at all, and returns where."""
    path = sidecar_path(plan_path)
    write_json(path, sidecar.to_json())
    return path


def read(plan_path: Path) -> Sidecar:
    """The side-car of the plan at `plan_path`.

    Raises:
        InputError: the plan or the side-car is missing or malformed, or they do not belong together.
    """
    return read_plan(plan_path)[0]


def read_plan(plan_path: Path) -> tuple[Sidecar, bytes]:
    """The side-car and the very bytes of the plan that it was checked against.

    Raises:
        InputError: the plan or the side-car is missing or malformed, or they do not belong together.
    """
    try:
        plan = plan_path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {plan_path}: {error.strerror}") from error
    path = sidecar_path(plan_path)
    try:
        sidecar = Sidecar.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{plan_path} has no side-car {path.name} beside it; {REBUILD}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        unread = isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError)
        reason = "it is not JSON" if unread else str(error)
        raise InputError(f"{path} is not a plan's side-car: {reason}; {REBUILD}") from error
    if (len(plan), sha256_bytes(plan)) != (sidecar.plan_bytes, sidecar.plan_sha256):
        raise InputError(
            f"{plan_path} is not the plan that {path.name} describes (its SHA-256 differs); {REBUILD}"
        )
    return sidecar, plan


def _spec_to_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(value)
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:  # a bool is an int, too
        raise ValueError(value)
    return value


def _digest(value: Any) -> str:
    if len(_text(value)) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(value)
    return str(value)


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(_text(item) for item in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ValueError(value)
    return value


def _capabilities(value: Any) -> tuple[str, ...]:
    texts = _texts(value)
    for text in texts:
        capability(text)
    return texts


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(value)  # noqa: TRY004 - a file's content, not a caller's type
    return value


def _settings(value: Any) -> dict[str, Any]:
    """The settings; what is asked of them is of its kind, and the others are only shown."""
    flags = _object(value)["flags"]
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise ValueError(flags)
    _text(value["typing"])
    return dict(value)


def _strings(value: Any) -> dict[str, str]:
    if not all(isinstance(text, str) for text in _object(value).values()):
        raise ValueError(value)
    return dict(value)


def _profiles(value: Any) -> tuple[BatchRange, ...]:
    return tuple(BatchRange(*(_size(size) for size in _list(batch))) for batch in _list(value))


def _census(value: Any) -> dict[Precision, int]:
    return {Precision(name): _size(count) for name, count in _object(value).items()}


def _census_to_json(census: Mapping[Precision, int]) -> dict[str, int]:
    return {precision.value: census[precision] for precision in sorted(census)}


def _specs(value: Any) -> tuple[TensorSpec, ...]:
    specs = []
    for item in _list(value):
        if set(item) != {"name", "shape", "dtype"} or not isinstance(item["shape"], list):
            raise ValueError(item)
        shape = tuple(None if size is None else _size(size) for size in item["shape"])
        specs.append(TensorSpec(_text(item["name"]), shape, _text(item["dtype"])))
    return tuple(specs)


# How each field is read, in the order of the file.
_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "plan_sha256": _digest,
    "plan_bytes": _size,
    "onnx_sha256": _digest,
    "origin": _strings,
    "package_version": _text,
    "tensorrt": _text,
    "tensorrt_version": _text,
    "systems": _texts,
    "architecture": _text,
    "compute_capabilities": _capabilities,
    "gpu": lambda value: None if value is None else _text(value),
    "settings": _settings,
    "profiles": _profiles,
    "precision": Precision,
    "layers": _census,
    "engine_layers": lambda value: None if value is None else _census(value),
    "inputs": _specs,
    "outputs": _specs,
}
