"""float32 ONNX file and training images -> typed model, with the measurements that shaped it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy.artifact import sha256_bytes
from bn_deploy.errors import CheckFailed, InputError
from bn_deploy.precision.census import DtypeCensus, census
from bn_deploy.precision.checks import check
from bn_deploy.precision.emulate import emulated
from bn_deploy.precision.formats import Half, half_of
from bn_deploy.precision.half import convert
from bn_deploy.precision.quantize import candidates, quantized
from bn_deploy.precision.runtime import Array
from bn_deploy.precision.sensitivity import (
    INT8_UNIT,
    Cost,
    Outputs,
    calibrated,
    half_costs,
    int8_costs,
    keep,
    spread,
)
from bn_deploy.spec import TENSORRT_8, TENSORRT_10, Precision, Track, silent


@dataclass(frozen=True)
class TypedModel:
    """A model in a precision, and how it came about.

    Attributes:
        proto: the model; what goes in and comes out is float32.
        precision: the precision.
        target: of spec.TARGETS.
        kept: the operators that stay wider than the precision says, each with the reason.
        costs: what each operator alone costs.
        error: what all together cost: rms error of the outputs on calibration images, relative to variation.
        census: what it computes in.
        calibration: how many images ranges are of and costs were measured on, the SHA-256 of them all, and
            for int8 the calibrators with the error of each.
    """

    proto: onnx.ModelProto
    precision: Precision
    target: str
    kept: dict[str, str]
    costs: tuple[Cost, ...]
    error: float
    census: DtypeCensus
    calibration: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What is worth telling of it, as a JSON object."""
        return {
            "precision": self.precision.value,
            "target": self.target,
            "kept": self.kept,
            "costs": [cost.to_json() for cost in self.costs],
            "error": self.error if np.isfinite(self.error) else None,
            "dtypes": self.census.to_json(),
            "calibration": self.calibration,
        }


def typed(
    proto: onnx.ModelProto,
    precision: Precision,
    images: Array,
    *,
    target: str = TENSORRT_10,
    track: Track = silent,
) -> TypedModel:
    """Gives a float32 model a precision.

    Args:
        proto: the model; it is not changed.
        precision: any but fp32.
        images: (N, ...) float32, of the split that the network was trained on: never random numbers.
        target: of spec.TARGETS.
        track: follows the measurements.

    Raises:
        InputError: the images cannot be used.
        ModelError: the model cannot be given that precision.
        CheckFailed: nothing in it would compute in that precision, or the result is not what it must be.
        NotAvailable: ONNX Runtime, which measures, is not installed.
    """
    if precision is Precision.FP32:
        raise InputError("a float32 model is in fp32 as it is")
    if precision is Precision.BF16 and target == TENSORRT_8:
        raise InputError("TensorRT 8 has no bf16; fp16 is what it has")
    images = _usable(images)
    left = precision is Precision.INT8_FP16 and target == TENSORRT_8  # to TensorRT 8, which chooses fp16
    half = None if left else half_of(precision)
    kept: dict[str, str] = {}
    costs: list[Cost] = []
    calibration: dict[str, Any] = {
        "images": len(images),
        "measured": len(spread(images)),
        "sha256": digest(images),
    }
    result = proto
    if precision in {Precision.INT8, Precision.INT8_FP16}:
        able = candidates(proto)
        if not able:
            raise CheckFailed(
                f"nothing in the network can be {precision.value}: it has no layer with weights"
            )
        known = calibrated(proto, able, images)
        calibration |= {"method": known.method, "errors": known.errors}
        costs = int8_costs(proto, able, known.ranges, images, track)
        kept = keep(costs, INT8_UNIT)
        result = quantized(proto, known.ranges, [name for name in able if name not in kept])
    if half is not None:
        measured = half_costs(proto, half, images, track)
        costs += measured
        converted = convert(result, half, keep(measured, half.unit, half.largest))
        result, kept = converted.proto, _joined(kept, converted.kept)
    made = TypedModel(
        _described(result, precision, target, calibration),
        precision,
        target,
        kept,
        tuple(costs),
        0.0,
        census(result),
        calibration,
    )
    _ensure(made, half, Precision.INT8 if left else precision)
    return replace(made, error=Outputs(proto, spread(images)).error(emulated(made.proto)))


def digest(images: Array) -> str:
    """The SHA-256 of calibration images (N, ...): of their numbers, row by row, as float32."""
    return sha256_bytes(np.ascontiguousarray(images, "<f4").tobytes())


def _usable(images: Array) -> Array:
    if images.ndim < 2 or not len(images) or images.dtype != np.float32:
        raise InputError(f"calibration takes float32 images (N, ...), not {images.dtype} {images.shape}")
    if not np.isfinite(images).all():
        raise InputError("there are NaN or infinity among the calibration images")
    return images


def _joined(int8: Mapping[str, str], half: Mapping[str, str]) -> dict[str, str]:
    """Both keep-lists as one; a node may be on both."""
    names = dict.fromkeys((*int8, *half))
    return {name: "; ".join(one[name] for one in (int8, half) if name in one) for name in names}


def _described(
    proto: onnx.ModelProto, precision: Precision, target: str, calibration: Mapping[str, Any]
) -> onnx.ModelProto:
    """The model with its provenance in its metadata, sorted."""
    told = {entry.key: entry.value for entry in proto.metadata_props}
    told |= {
        "bn_deploy.precision": precision.value,
        "bn_deploy.target": target,
        "bn_deploy.calibration_images": str(calibration["images"]),
        "bn_deploy.calibration_sha256": calibration["sha256"],
    }
    if "method" in calibration:
        told["bn_deploy.calibration_method"] = calibration["method"]
    del proto.metadata_props[:]
    for key, value in sorted(told.items()):
        proto.metadata_props.add(key=key, value=value)
    return proto


def _ensure(made: TypedModel, half: Half | None, wanted: Precision) -> None:
    """The postconditions."""
    missing = made.census.lacks(wanted)
    if missing is not None:
        why = "; ".join(f"{name}: {reason}" for name, reason in list(made.kept.items())[:3])
        raise CheckFailed(
            f"nothing in the network would compute in {missing}, so it would not be {made.precision.value}"
            + (f": {why}" if why else "")
        )
    check(made.proto, scales=half.dtype if half is not None else ir.DataType.FLOAT)
