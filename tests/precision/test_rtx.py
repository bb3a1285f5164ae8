"""TensorRT-RTX, strongly typed as TensorRT 11 is, takes every network of the zoo in every precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.build import BuildOptions, build
from bn_deploy.errors import ModelError
from bn_deploy.precision.typed import typed
from bn_deploy.spec import TARGETS, BatchRange, Precision
from tests.precision.test_checks import asymmetric, cast_missing, fp16, int8
from tests.precision.zoo import ZOO, Net, images, residual

SMALL = BuildOptions(batch=BatchRange(1, 4, 8), compute_capabilities=("8.6",))


def built(model: onnx.ModelProto, folder: Path, rtx: TensorRT, options: BuildOptions = SMALL) -> Precision:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return build(path, folder / "model.plan", options=options, trt=rtx).sidecar.precision


@pytest.mark.parametrize("precision", [one for one in Precision if one is not Precision.FP32])
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_every_network_is_built_in_every_precision(
    make: Callable[[], Net], precision: Precision, tmp_path: Path, rtx: TensorRT
) -> None:
    net = make()
    assert built(typed(net.model(), precision, images(net)).proto, tmp_path, rtx) is precision


@pytest.mark.parametrize("target", TARGETS)
def test_a_fixed_batch_and_either_emission_are_built(target: str, tmp_path: Path, rtx: TensorRT) -> None:
    net = residual()
    made = typed(net.model(4), Precision.INT8_FP16, images(net), target=target)
    built(made.proto, tmp_path, rtx, BuildOptions(compute_capabilities=("8.6",)))


@pytest.mark.parametrize(
    ("make", "change"),
    [(fp16, cast_missing), (lambda: int8(residual()), asymmetric)],
    ids=["mixed", "asymmetric"],
)
def test_what_our_checks_refuse_the_builder_refuses_too(
    make: Callable[[], onnx.ModelProto],
    change: Callable[[onnx.ModelProto], None],
    tmp_path: Path,
    rtx: TensorRT,
) -> None:
    model = make()
    built(model, tmp_path, rtx)
    change(model)
    with pytest.raises(ModelError, match="cannot build"):
        built(model, tmp_path, rtx)
