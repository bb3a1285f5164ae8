"""A float32 model and images become a typed model that says what it is and how it came about."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from bn_deploy.errors import BnDeployError, CheckFailed, InputError, ModelError
from bn_deploy.precision import typed as typed_module
from bn_deploy.precision.census import census
from bn_deploy.precision.half import Converted, convert
from bn_deploy.precision.runtime import Array
from bn_deploy.precision.typed import digest, typed
from bn_deploy.spec import TARGETS, TENSORRT_8, TENSORRT_10, Precision
from tests.precision.test_checks import weight_not_converted
from tests.precision.test_sensitivity import loud
from tests.precision.zoo import Net, depthwise, images, plain

NARROW = [one for one in Precision if one is not Precision.FP32]


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("precision", NARROW)
def test_it_says_what_it_is_and_what_it_was_measured_on(precision: Precision) -> None:
    net = plain()
    before, batch = net.model(), images(net)
    made = typed(before, precision, batch)
    told = metadata(made.proto)
    assert told["origin"] == "the zoo"
    assert told["bn_deploy.precision"] == precision.value
    assert told["bn_deploy.calibration_images"] == str(len(batch))
    assert told["bn_deploy.calibration_sha256"] == hashlib.sha256(batch.tobytes()).hexdigest()
    assert ("bn_deploy.calibration_method" in told) is precision.value.startswith("int8")
    assert list(told) == sorted(told)
    assert made.census.lacks(precision) is None
    assert made.census == census(made.proto)
    assert 0 < made.error < 0.2
    assert made.facts()["calibration"]["sha256"] == told["bn_deploy.calibration_sha256"]
    assert made.facts()["dtypes"]["precision"] == precision.value
    again = typed(before, precision, batch)
    assert again.proto.SerializeToString(deterministic=True) == made.proto.SerializeToString(
        deterministic=True
    )


def test_other_images_have_another_digest() -> None:
    batch = images(plain())
    turned = np.ascontiguousarray(batch[::-1])
    assert len({digest(batch), digest(turned), digest(batch[:-1]), digest(batch + np.float32(1e-7))}) == 4
    assert digest(turned[::-1]) == digest(batch)  # of the numbers, however they lie in memory


def test_the_two_emissions_differ_in_int8_with_fp16_only() -> None:
    net = plain()
    made = {
        (precision, target): typed(net.model(), precision, images(net), target=target)
        for precision in (Precision.FP16, Precision.INT8, Precision.INT8_FP16)
        for target in TARGETS
    }
    for precision in (Precision.FP16, Precision.INT8):
        graphs = [made[precision, target].proto.graph for target in TARGETS]
        assert graphs[0] == graphs[1]
    ten, eight = (made[Precision.INT8_FP16, target].proto for target in (TENSORRT_10, TENSORRT_8))
    kinds = [{t.data_type for t in one.graph.initializer} for one in (ten, eight)]
    assert kinds == [{TensorProto.FLOAT16, TensorProto.INT8}, {TensorProto.FLOAT, TensorProto.INT8}]
    assert eight.graph == made[Precision.INT8, TENSORRT_8].proto.graph
    assert metadata(eight)["bn_deploy.precision"] == "int8+fp16"
    assert metadata(eight)["bn_deploy.target"] == TENSORRT_8


def test_what_is_too_sensitive_for_int8_is_half_instead() -> None:
    net = depthwise()
    alone = typed(net.model(), Precision.INT8, images(net))
    both = typed(net.model(), Precision.INT8_FP16, images(net))
    assert alone.kept
    assert alone.census.macs.keys() == {"fp32", "int8"}
    assert list(both.kept) == list(alone.kept)
    assert both.census.macs.keys() == {"fp16", "int8"}


def test_what_leaves_fp16_stays_float32_and_the_rest_does_not() -> None:
    net = loud()
    made = typed(net.model(), Precision.FP16, images(net))
    assert list(made.kept) == ["n_gemm_2", "n_mul_3"]
    assert made.census.operators == {"fp16": 4, "fp32": 2}
    assert made.error < 2**-6


def weightless() -> Net:
    return Net((5, 8, 8)).add("Relu").add("GlobalAveragePool").add("Flatten")


@pytest.mark.parametrize(
    ("make", "precision", "target", "change", "error", "reason"),
    [
        (plain, Precision.FP32, TENSORRT_10, None, InputError, "is in fp32 as it is"),
        (plain, Precision.BF16, TENSORRT_8, None, InputError, "TensorRT 8 has no bf16"),
        (plain, Precision.FP16, TENSORRT_10, lambda x: x[:0], InputError, r"not float32 \(0, 3, 8, 8\)"),
        (plain, Precision.FP16, TENSORRT_10, lambda x: x.astype("f8"), InputError, "not float64"),
        (plain, Precision.FP16, TENSORRT_10, lambda x: x * np.float32("nan"), InputError, "NaN or infinity"),
        (plain, Precision.INT8, TENSORRT_10, lambda x: x[:, :2], ModelError, "cannot calibrate|cannot run"),
        (weightless, Precision.INT8, TENSORRT_10, None, CheckFailed, "nothing in the network can be int8"),
    ],
)
def test_what_cannot_be_is_refused(
    make: Callable[[], Net],
    precision: Precision,
    target: str,
    change: Callable[[Array], Array] | None,
    error: type[BnDeployError],
    reason: str,
) -> None:
    net = make()
    batch = images(net)
    with pytest.raises(error, match=reason):
        typed(net.model(), precision, batch if change is None else change(batch), target=target)


def test_a_file_that_would_be_float32_is_an_error() -> None:
    net = Net((12,)).dense(12)
    net.weights["w0"] *= np.float32(1e6)
    with pytest.raises(
        CheckFailed, match=r"nothing .* would compute in fp16, so it would not be fp16: n_gemm_0"
    ):
        typed(net.model(), Precision.FP16, images(net))


def test_what_is_wrong_with_the_result_is_found_before_it_is_given_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def careless(*arguments: Any) -> Converted:
        done = convert(*arguments)
        weight_not_converted(done.proto)
        return done

    monkeypatch.setattr(typed_module, "convert", careless)
    net = plain()
    with pytest.raises(CheckFailed, match="mixes float16 and float"):
        typed(net.model(), Precision.FP16, images(net))
