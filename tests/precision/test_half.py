"""float32 -> half: every weight and node but a keep-list, with each Cast once and float32 at the ends."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import ModelError
from bn_deploy.precision.census import census
from bn_deploy.precision.checks import check
from bn_deploy.precision.emulate import emulated
from bn_deploy.precision.formats import BF16, FP16, HALVES, Half
from bn_deploy.precision.half import convert
from bn_deploy.precision.runtime import run
from tests.precision.zoo import IMAGE, ZOO, Net, images, plain, residual, transposed

both = pytest.mark.parametrize("half", HALVES, ids=lambda half: half.precision.value)


def weights(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in proto.graph.initializer}


def casts(proto: onnx.ModelProto) -> list[tuple[str, int]]:
    """What each Cast reads, and the type that it gives."""
    return [(n.input[0], n.attribute[0].i) for n in proto.graph.node if n.op_type == "Cast"]


@both
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_all_of_a_network_is_half_but_its_ends(make: Callable[[], Net], half: Half) -> None:
    before = make().model()
    done = convert(before, half, {})
    check(done.proto)
    unbuilt = ["ConvTranspose"] if half is BF16 and make is transposed else []
    kinds = {node.name: node.op_type for node in before.graph.node}
    assert [kinds[name] for name in done.kept] == unbuilt
    after = done.proto
    assert [(v.name, v.type) for v in after.graph.input] == [(v.name, v.type) for v in before.graph.input]
    assert [(v.name, v.type) for v in after.graph.output] == [(v.name, v.type) for v in before.graph.output]
    names = [node.name for node in after.graph.node if node.op_type != "Cast"]
    assert names == [node.name for node in before.graph.node]
    assert after.metadata_props == before.metadata_props
    if not unbuilt:
        name = half.precision.value
        assert census(after).operators == {name: len(names)}
        assert casts(after) == [("image", half.dtype.value), (f"logits.{name}", TensorProto.FLOAT)]
        assert {tensor.data_type for tensor in after.graph.initializer} == {half.dtype.value}
        assert weights(after).keys() == weights(before).keys()


@both
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_it_computes_the_same_but_for_rounding(make: Callable[[], Net], half: Half) -> None:
    net = make()
    model = net.model()
    batch = images(net)
    exact = run(model, batch, ["logits"])["logits"]
    rounded = run(emulated(convert(model, half, {}).proto), batch, ["logits"])["logits"]
    error = float(np.sqrt(np.square(rounded - exact).mean() / np.square(exact).mean()))
    # Each of at most 8 layers rounds its result and its weights once; they are well conditioned.
    assert half.unit / 16 < error < 4 * half.unit


@both
def test_the_emulation_rounds_operands_and_results_and_sums_in_float32(half: Half) -> None:
    net = Net((12,)).dense(12)
    batch = images(net, 9)
    rounded = run(emulated(convert(net.model(), half, {}).proto), batch, ["logits"])["logits"]

    def cut(numbers: np.typing.NDArray[np.float32]) -> np.typing.NDArray[np.float64]:
        return numbers.astype(half.numpy).astype(np.float64)

    weight, bias = net.weights.values()
    whole = (cut(batch) @ cut(weight).T + cut(bias)).astype(np.float32)
    near = [cut(np.nextafter(whole, way, dtype=np.float32)) for way in (-np.inf, np.inf)]
    # Sums in float32 and in float64 differ in the last place: on the edge of two numbers either is right.
    assert ((rounded == cut(whole)) | (rounded == near[0]) | (rounded == near[1])).all()
    assert (rounded == cut(rounded)).all()


def test_kept_nodes_stay_float32_behind_one_cast_each_way() -> None:
    model = residual().model()
    relu, conv, add = "n_relu_1", "n_conv_2", "n_add_3"
    done = convert(model, FP16, {conv: "asked for", add: "also"})
    check(done.proto)
    assert done.kept == {conv: "asked for", add: "also"}
    nodes = {node.name: node for node in done.proto.graph.node}
    # What both kept nodes read is widened once; between them nothing is.
    assert nodes[conv].input[0] == nodes[add].input[1] == "relu_1.fp32"
    assert nodes[add].input[0] == "conv_2"
    assert casts(done.proto).count((nodes[relu].output[0], TensorProto.FLOAT)) == 1
    assert weights(done.proto)[nodes[conv].input[1]].data_type == TensorProto.FLOAT
    made = {node.output[0]: node for node in done.proto.graph.node}
    pairs = [name for name, _ in casts(done.proto) if name in made and made[name].op_type == "Cast"]
    assert not pairs


def test_a_weight_that_both_read_is_there_twice() -> None:
    net = Net((12,))
    shared = net.weight("shared", 12, 12)
    net = net.add("MatMul", shared).add("MatMul", shared).dense(12)
    done = convert(net.model(), FP16, {"n_matmul_1": "asked for"})
    check(done.proto)
    kinds = {name: tensor.data_type for name, tensor in weights(done.proto).items()}
    assert (kinds["shared"], kinds["shared.fp16"]) == (TensorProto.FLOAT, TensorProto.FLOAT16)


@pytest.mark.parametrize(
    ("scale", "half", "reason"),
    [
        (1e6, FP16, "reaches .* and fp16 ends at 6.55e"),
        (1e-8, FP16, "loses .* to underflow"),
        (1e6, BF16, None),
        (1e-8, BF16, None),
        (1.0, FP16, None),
    ],
)
def test_weights_that_do_not_fit_stay(scale: float, half: Half, reason: str | None) -> None:
    net = plain()
    net.weights["w0"] *= np.float32(scale)
    done = convert(net.model(), half, {})
    check(done.proto)
    if reason is None:
        assert done.kept == {}
    else:
        assert list(done.kept) == ["n_conv_0"]
        assert re.search(f"its weight w0 {reason}", done.kept["n_conv_0"])


def test_numbers_at_the_end_of_the_range_and_infinities_fit() -> None:
    assert FP16.unfit(np.array([65504.0, -np.inf, 0.0])) is None
    assert FP16.unfit(np.array([65536.0])) is not None
    assert FP16.unfit(np.array([], np.float32)) is None
    assert BF16.unfit(np.array([3.38e38], np.float32)) is None


def test_operators_that_onnx_has_in_float32_only_stay() -> None:
    net = Net(IMAGE).conv(4, 3, 3, 3)
    net.weights["scales"] = np.array([1, 1, 2, 2], np.float32)
    net = net.add("Resize", "", "scales", mode="nearest").add("GlobalAveragePool").add("Flatten").dense(4)
    done = convert(net.model(), FP16, {})
    check(done.proto)
    assert done.kept == {}  # a Resize is half, and its scales are not
    kinds = {name: tensor.data_type for name, tensor in weights(done.proto).items()}
    assert kinds["scales"] == TensorProto.FLOAT
    lone = Net((12,), opset=13).add("CumSum", "axis").dense(12)
    lone.weights["axis"] = np.array(1, np.int64)
    done = convert(lone.model(), FP16, {})
    check(done.proto)
    assert done.kept == {"n_cumsum_0": "ONNX has no fp16 CumSum in operator set 13"}  # 14 has


def test_what_is_computed_from_shapes_stays_float32() -> None:
    """2049 is no fp16 number: a size that went through it would be another one."""
    net = Net((12,))
    net.nodes += [
        helper.make_node("Shape", ["image"], ["sizes"], name="n_shape"),
        helper.make_node("Cast", ["sizes"], ["real"], name="n_real", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "one"], ["scaled"], name="n_scaled"),
        helper.make_node("Cast", ["scaled"], ["whole"], name="n_whole", to=TensorProto.INT64),
        helper.make_node("Reshape", ["image", "whole"], ["same"], name="n_same"),
    ]
    net.weights["one"], net.last = np.array([1, 1], np.float32), "same"
    done = convert(net.dense(12).model(), FP16, {})
    check(done.proto)
    assert done.kept == {"n_scaled": "is computed from weights and shapes alone"}
    batch = np.ones((2049, 12), np.float32)
    assert run(emulated(done.proto), batch, ["logits"])["logits"].shape == (2049, 5)


def test_a_cast_that_was_there_stays_what_it_is() -> None:
    net = Net((12,)).add("Cast", to=TensorProto.INT32).add("Cast", to=TensorProto.FLOAT).dense(12)
    done = convert(net.model(), FP16, {})
    check(done.proto)
    assert casts(done.proto)[:2] == [("image", TensorProto.INT32), ("cast_0", TensorProto.FLOAT)]


def branching() -> onnx.ModelProto:
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.float32(1)))],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [])],
    )
    net = Net((12,))
    net.weights["yes"] = np.array(True)
    net.nodes.append(
        helper.make_node("If", ["yes"], ["one"], name="n_if", then_branch=branch, else_branch=branch)
    )
    return net.add("Add", "one").dense(12).model()


def calling() -> onnx.ModelProto:
    model = plain().model()
    model.functions.append(onnx.FunctionProto(name="f", domain="mine"))
    return model


def old(net: Net) -> onnx.ModelProto:
    net.opset = 17
    return net.model()


def sampling() -> onnx.ModelProto:
    net = Net(IMAGE)
    net.weights["grid"] = np.zeros((1, 8, 8, 2), np.float32)
    return (
        net.conv(4, 3, 1, 1)
        .add("GridSample", "grid")
        .add("GlobalAveragePool")
        .add("Flatten")
        .dense(4)
        .model(1)
    )


@pytest.mark.parametrize(
    ("make", "half", "reason"),
    [
        (branching, FP16, r"If \(n_if\) holds a graph of its own"),
        (calling, FP16, "calls the function f"),
        (lambda: old(plain()), BF16, "bf16 asks for operator set 22, and the model is in 17"),
        (sampling, BF16, r"operator set 22, in which GridSample \(n_gridsample_1\) means something else"),
    ],
)
def test_what_cannot_be_half_is_refused(make: Callable[[], onnx.ModelProto], half: Half, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        convert(make(), half, {})


def test_fp16_leaves_the_operator_set_and_bf16_raises_it_no_further_than_it_must() -> None:
    def opset(model: onnx.ModelProto, half: Half) -> int:
        return int(convert(model, half, {}).proto.opset_import[0].version)

    assert opset(old(plain()), FP16) == 17
    assert opset(plain().model(), FP16) == 18
    assert opset(plain().model(), BF16) == 22  # the first with bfloat16 convolutions
    assert opset(Net((12,)).dense(12).model(), BF16) == 18
