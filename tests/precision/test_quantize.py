"""float32 -> Q/DQ, from the ranges of ONNX Runtime's calibrators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bn_deploy.errors import InputError, ModelError
from bn_deploy.precision.census import census
from bn_deploy.precision.quantize import candidates, quantized
from bn_deploy.precision.runtime import METHODS, Array, ranges, run
from tests.precision.zoo import ZOO, Net, images, mlp, plain, residual, transposed


def arrays(proto: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def every(net: Net, model: onnx.ModelProto) -> onnx.ModelProto:
    return quantized(model, ranges(model, images(net), "minmax"), list(candidates(model)))


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_every_product_is_int8_and_computes_nearly_the_same(make: Callable[[], Net]) -> None:
    net = make()
    model = net.model()
    before = model.SerializeToString()
    done = every(net, model)
    assert model.SerializeToString() == before
    counted = census(done)
    assert set(counted.macs) == {"int8"}
    assert counted.macs["int8"] == census(model).macs["fp32"]
    assert [n.name for n in done.graph.node if n.name.startswith("n_")] == [n.name for n in model.graph.node]
    exact, other = (run(one, images(net), ["logits"])["logits"] for one in (model, done))
    # Half steps of 1/254 of each range; the nets have at most three such layers.
    assert 1e-4 < np.sqrt(np.square(other - exact).mean() / np.square(exact).mean()) < 0.05


@pytest.mark.parametrize(
    ("make", "weight", "axis"), [(plain, "w0", 0), (transposed, "w2", 1), (mlp, "product", 1)]
)
def test_weights_have_a_scale_for_each_output_channel(
    make: Callable[[], Net], weight: str, axis: int
) -> None:
    net = make()
    known = arrays(every(net, net.model()))
    rest = tuple(i for i in range(net.weights[weight].ndim) if i != axis)
    assert known[f"{weight}.scale"] == pytest.approx(
        np.abs(net.weights[weight]).max(axis=rest) / 127, rel=1e-6
    )
    assert known[f"{weight}.zero"].dtype == np.int8
    assert not known[f"{weight}.zero"].any()


def test_activations_have_one_scale_from_the_largest_magnitude() -> None:
    net = plain()
    known = arrays(every(net, net.model()))
    assert known["image.scale"].shape == ()
    assert known["image.scale"] == pytest.approx(np.abs(images(net)).max() / 127)


def test_a_value_that_two_layers_read_is_quantised_once() -> None:
    net = residual()
    net = Net(net.shape)
    net.conv(4, 3, 1, 1)
    first, net.last = net.last, "image"
    net.conv(4, 3, 1, 1).add("Add", first).add("GlobalAveragePool").add("Flatten").dense(4)
    done = every(net, net.model())
    readers = [node.input[0] for node in done.graph.node if node.op_type == "QuantizeLinear"]
    assert readers.count("image") == 1


def test_a_channel_of_zeros_gets_a_scale_all_the_same() -> None:
    net = plain()
    net.weights["w0"][2] = 0
    done = every(net, net.model())
    assert (arrays(done)["w0.scale"] > 0).all()
    assert np.isfinite(run(done, images(net), ["logits"])["logits"]).all()


def test_products_of_two_activations_are_left_alone() -> None:
    net = Net((12, 12)).add("MatMul", "image").add("Flatten").dense(144)
    assert list(candidates(net.model())) == ["n_gemm_2"]


def test_only_what_was_asked_for_is_quantised() -> None:
    net = plain()
    model = net.model()
    done = quantized(model, ranges(model, images(net), "minmax"), ["n_gemm_3"])
    assert census(done).macs == {"fp32": 5832, "int8": 1080}


def test_calibrators_agree_on_what_the_largest_magnitude_is() -> None:
    net = plain()
    model, batch = net.model(), images(net)
    exact = float(np.abs(run(model, batch, ["conv_0"])["conv_0"]).max())
    found = {method: ranges(model, batch, method)["conv_0"] for method in METHODS}
    assert found["minmax"] == pytest.approx(exact, rel=1e-6)
    assert all(0 < value <= exact * 1.01 for value in found.values())
    assert (
        ranges(model, batch[:7], "minmax")["image"] == np.abs(batch[:7]).max()
    )  # 7 rows make no whole batch


@pytest.mark.parametrize("method", [method for method in METHODS if method != "minmax"])
def test_a_calibrator_that_cuts_leaves_out_what_is_rare(method: str) -> None:
    net = plain()
    batch = np.random.default_rng(3).normal(size=(128, *net.shape)).astype(np.float32)
    batch.flat[0] = 40.0
    assert batch.size > 10_000  # what is rarer than that the percentile leaves out
    assert ranges(net.model(), batch, "minmax")["image"] == 40.0
    assert ranges(net.model(), batch, method)["image"] < 36.0


@pytest.mark.parametrize(
    ("change", "known", "reason"),
    [
        (
            {"opset": 12},
            {"image": 1.0, "flatten_2": 1.0},
            "int8 asks for operator set 13, and the model is in 12",
        ),
        ({}, {"image": 1.0}, "no range for flatten_2"),
        ({}, {"image": float("nan"), "flatten_2": 1.0}, "no range for image"),
    ],
)
def test_what_cannot_be_quantised_is_refused(
    change: dict[str, int], known: dict[str, float], reason: str
) -> None:
    net = plain()
    net.opset = change.get("opset", net.opset)
    with pytest.raises(ModelError, match=reason):
        quantized(net.model(), known, ["n_conv_0", "n_gemm_3"])


def test_images_that_do_not_fit_are_refused() -> None:
    net = plain()
    with pytest.raises(ModelError, match="cannot run the model"):
        run(net.model(), images(residual())[:, :2], ["logits"])
    with pytest.raises(InputError, match="batches of 8 only, and there are 3 images"):
        run(net.model(8), images(net, 3), ["logits"])
    assert len(run(net.model(8), images(net, 20), ["logits"])["logits"]) == 16
