"""Which candidates are asked to compute in another precision."""

from __future__ import annotations

import pytest

from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.errors import InputError
from bn_deploy.pipeline.subjects import in_precision
from bn_deploy.spec import Precision

ORT, OPENVINO = (
    Candidate("folded", name, Source("onnx", "/m.onnx"), 1, precision="fp32") for name in ("ort", "openvino")
)


def test_only_those_that_can_be_asked_are() -> None:
    found = in_precision([ORT, OPENVINO], Precision.BF16)
    assert [one.precision for one in found] == ["fp32", "bf16"]
    assert in_precision([ORT, OPENVINO], None) == [ORT, OPENVINO]


@pytest.mark.parametrize(
    ("candidates", "precision", "who"),
    [
        ([ORT], Precision.BF16, "ort cannot be asked for bf16, openvino can"),
        ([ORT, OPENVINO], Precision.INT8, "ort, openvino cannot be asked for int8, as no backend can"),
    ],
)
def test_a_precision_that_nobody_can_be_asked_for_is_refused(
    candidates: list[Candidate], precision: Precision, who: str
) -> None:
    with pytest.raises(InputError, match=who):
        in_precision(candidates, precision)
