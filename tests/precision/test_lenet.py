"""The reference network on the real data: what each precision costs of its accuracy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from bn_deploy import data
from bn_deploy.precision.emulate import emulated
from bn_deploy.precision.runtime import run
from bn_deploy.precision.typed import typed
from bn_deploy.spec import CALIBRATION_IMAGES, Precision

MODEL = Path(__file__).parents[2] / "models" / "lenet-bn" / "model.folded.onnx"

LOST_AT_MOST = {
    # share of the labels: what the project asks of each precision
    Precision.FP16: 0.001,
    Precision.BF16: 0.001,
    Precision.INT8: 0.003,
    Precision.INT8_FP16: 0.003,
}


@pytest.mark.realdata
@pytest.mark.parametrize("precision", LOST_AT_MOST)
def test_a_precision_costs_no_more_accuracy_than_it_may(
    precision: Precision, fashion_mnist_dir: Path
) -> None:
    whole = data.load("fashion-mnist", data_dir=fashion_mnist_dir)
    every = np.linspace(0, len(whole.train) - 1, CALIBRATION_IMAGES).astype(int)
    model = onnx.load(MODEL)
    made = typed(model, precision, whole.train.images[every])
    accuracy = [
        float((run(one, whole.test.images, ["logits"])["logits"].argmax(axis=1) == whole.test.labels).mean())
        for one in (model, emulated(made.proto))
    ]
    assert accuracy[0] == pytest.approx(0.8897, abs=0.0005)
    assert accuracy[0] - accuracy[1] <= LOST_AT_MOST[precision]
    assert made.kept == {}
