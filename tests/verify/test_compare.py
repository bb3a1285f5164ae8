from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from bn_deploy.backends import backend
from bn_deploy.backends.base import Array
from bn_deploy.errors import CheckFailed, InputError, ModelError
from bn_deploy.spec import Stage
from bn_deploy.verify.compare import compare
from bn_deploy.verify.evidence import Evidence, Form, form
from bn_deploy.verify.parity import Parity
from tests.lenets import bounded, float64, garments, onnx_bytes
from tests.lenets import form as lenet

T = TypeVar("T")

IMAGES = np.random.default_rng(5).normal(size=(10, 3)).astype(np.float32)
LABELS = IMAGES.argmax(axis=1)
ROUNDING = 1e-6


def rounded(x: Array) -> Array:
    """The trained network: the identity, with an error that stands for rounding."""
    return x.astype(np.float64) + ROUNDING


def exact(x: Array) -> Array:
    return x.astype(np.float64)


def at(image: int, class_: int, value: float) -> Callable[[Array], Array]:
    """The trained network, but for one logit of one image."""

    def run(x: Array) -> Array:
        y = rounded(x)
        for row in np.flatnonzero((x == IMAGES[image]).all(axis=1)):
            y[row, class_] = value
        return y

    return run


Formula = Callable[[Array], Array]


def as_form(name: str, formula: Formula) -> Form:
    """A network that is one function of its input, (n, 3) -> (n, 3)."""
    return Form(name, lambda x: np.asarray(formula(x), np.float32), "fake", "FakeProvider", "fp32")


def forms(*formulas: Formula) -> list[Form]:
    names = ("trained", "converted", "folded", "onnx")
    return [as_form(name, formula) for name, formula in zip(names, formulas, strict=False)]


def test_forms_that_compute_the_same_pass() -> None:
    parity = compare(forms(rounded, rounded, exact), exact, IMAGES, LABELS)
    assert parity.failed is None
    assert parity.images == 10
    assert [row.stage for row in parity.stages] == ["trained", "converted", "folded"]
    assert [(row.before, row.after) for row in parity.steps] == [
        ("trained", "converted"),
        ("converted", "folded"),
    ]
    first = parity.stages[0]
    assert (first.backend, first.provider, first.precision) == ("fake", "FakeProvider", "fp32")
    assert first.accuracy == 1.0
    assert parity.rms_trained == first.rms == pytest.approx(ROUNDING, rel=0.2)
    assert parity.steps[0].max_abs == parity.steps[0].rms == 0.0
    assert parity.steps[1].agree == parity.steps[1].images == 10


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 200])
def test_the_numbers_do_not_depend_on_the_batch(batch: int) -> None:
    """One logit of image 6 is wrong: its place, its size and its mean square are known beforehand."""
    wrong = at(6, 2, float(IMAGES[6].max()) + 4.0)
    parity = compare(forms(rounded, wrong), exact, IMAGES, LABELS, batch=batch)
    stage, step = parity.stages[1], parity.steps[0]
    off = float(IMAGES[6].max()) + 4.0 - float(IMAGES[6, 2])
    assert stage.max_abs == pytest.approx(off, rel=1e-6)
    assert stage.rms == pytest.approx(off / np.sqrt(30), rel=1e-6)
    assert stage.worst_image == step.worst_image == 6
    right = LABELS[6] == 2
    assert stage.accuracy == (1.0 if right else 0.9)
    assert step.agree == (10 if right else 9)
    assert parity.failed == "trained/converted"


def test_a_step_is_blamed_for_what_it_did_and_not_for_what_came_before() -> None:
    def broken(x: Array) -> Array:
        return rounded(x) * 1.01

    parity = compare(forms(rounded, rounded, broken, broken), exact, IMAGES, LABELS)
    assert parity.failed == "converted/folded"
    assert parity.steps[2].max_abs == 0.0  # the ONNX file is just what was folded
    assert [parity.passes(stage) for stage in parity.stages] == [True, True, False, False]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch", [1, 10])
def test_a_form_that_gives_no_number_fails(value: float, batch: int) -> None:
    parity = compare(forms(rounded, rounded, at(4, 0, value), rounded), exact, IMAGES, LABELS, batch=batch)
    assert parity.failed == "converted/folded"
    stage = parity.stages[2]
    assert not stage.finite
    assert (stage.max_abs, stage.rms, stage.worst_image) == (np.inf, np.inf, 4)
    assert stage.accuracy == 0.9  # a row with NaN names no class, whatever argmax says of it
    assert (parity.steps[1].agree, parity.steps[2].agree) == (9, 9)
    after = parity.stages[3]
    assert after.finite  # the next form is judged by itself
    assert parity.passes(after)
    assert Parity.from_json(parity.to_json()) == parity


def test_both_infinite_is_not_the_same() -> None:
    parity = compare(forms(rounded, at(1, 0, np.inf), at(1, 0, np.inf)), exact, IMAGES, LABELS)
    assert parity.steps[1].rms == np.inf
    assert parity.steps[1].agree == 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_trained_network_that_gives_no_number_can_judge_nothing(value: float) -> None:
    with pytest.raises(CheckFailed, match="the trained network itself gives NaN or infinity"):
        compare(forms(at(4, 0, value), rounded), exact, IMAGES, LABELS)


def test_a_reference_that_gives_no_number_can_judge_nothing() -> None:
    with pytest.raises(CheckFailed, match="the trained network itself gives NaN or infinity"):
        compare(forms(rounded), lambda x: exact(x) * np.nan, IMAGES, LABELS)


def test_what_is_unavailable_and_what_took_part_is_noted() -> None:
    parity = compare(
        [as_form("trained", rounded), as_form("onnx", rounded)],
        exact,
        IMAGES,
        LABELS,
        unavailable={"engine": "no GPU"},
        digests={"onnx.folded": "12"},
        dataset="numbers",
    )
    assert parity.unavailable == {"engine": "no GPU"}
    assert parity.digests == {"onnx.folded": "12"}
    assert parity.dataset == "numbers"
    assert [(step.before, step.after) for step in parity.steps] == [("trained", "onnx")]
    assert parity.exit_code == 0


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (IMAGES[:0], LABELS[:0], "^0 images with 0 labels cannot be compared$"),
        (IMAGES, LABELS[:9], "^10 images with 9 labels cannot be compared$"),
        (IMAGES, LABELS[:1], "^10 images with 1 labels cannot be compared$"),
    ],
    ids=["none", "one label short", "one label for all"],
)
def test_images_that_do_not_fit_are_refused(images: Array, labels: Array, said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare(forms(rounded), exact, images, labels)


def test_logits_of_another_shape_are_refused() -> None:
    """(N, 1) would otherwise be spread over the classes without a word."""
    with pytest.raises(ModelError, match=r"^fake gives logits of shape \(10, 1\), not \(10, 3\)$"):
        compare(forms(rounded, lambda x: x[:, :1]), exact, IMAGES, LABELS)


def test_progress_is_told_batch_by_batch() -> None:
    told: list[object] = []

    def track(items: Iterable[T], description: str, total: int) -> Iterator[T]:
        told.append((description, total))
        for item in items:
            told.append(item)
            yield item

    compare(forms(rounded), exact, IMAGES, LABELS, batch=4, track=track)
    assert told == [("comparing", 3), slice(0, 4), slice(4, 8), slice(8, 10)]


TORCH_FORMS = (Stage.TRAINED, Stage.CONVERTED, Stage.FOLDED)


@pytest.mark.parametrize("stale", [False, True])
def test_a_real_lenet_passes_from_end_to_end_and_a_stale_file_does_not(tmp_path: Path, stale: bool) -> None:
    """The stale file is the trained network's, with one bit of one weight changed since it was written."""
    if (reason := backend("ort").why_not()) is not None:
        pytest.skip(f"ort: {reason}")
    path = tmp_path / "model.onnx"
    data = onnx_bytes(Stage.FOLDED)
    weight = lenet(Stage.FOLDED).get_parameter("9.weight").detach().numpy().tobytes()
    assert data.count(weight) == 1
    if stale:
        byte = data.index(weight) + 4 * (7 * 256 + 100) + 2  # unit 7, input 100: a bit of the fraction
        data = data[:byte] + bytes([data[byte] ^ 0x40]) + data[byte + 1 :]
    path.write_bytes(data)
    images, labels = garments().test.images, garments().test.labels
    with ExitStack() as stack:

        def opened(stage: Stage, name: str, source: object) -> Form:
            return form(stage, stack.enter_context(backend(name).open(source, threads=1)))

        running = [opened(stage, "torch", bounded(lenet(stage))) for stage in TORCH_FORMS]
        running.append(opened(Stage.ONNX, "ort", path))
        parity = compare(running, float64(lenet(Stage.TRAINED)), images, labels)
    assert parity.failed == ("folded/onnx" if stale else None)
    assert [row.backend for row in parity.stages] == ["torch", "torch", "torch", "ort"]
    assert parity.images == 300
    assert all(step.agree == 300 for step in parity.steps[:2])


def test_a_class_of_numbers_without_a_rule_is_refused_before_anything_runs() -> None:
    def never(_: Array) -> Array:
        pytest.fail("it ran")

    narrow = Form("engine", never, "fake", "FakeProvider", "fp8")
    with pytest.raises(InputError, match=r"^there is no rule for how far a network in fp8 may be"):
        compare([Form("trained", never, "fake", "FakeProvider", "fp32"), narrow], never, IMAGES, LABELS)


def test_a_form_in_another_class_is_measured_by_the_trained_network_in_that_class() -> None:
    """A half-precision engine is a thousand times farther off than float32, and so is the trained network."""

    def coarse(x: Array) -> Array:
        return x.astype(np.float64) + 1e-3

    def coarser(x: Array) -> Array:
        return x.astype(np.float64) + 4e-3

    for engine, failed in ((coarse, None), (coarser, "trained/engine")):
        half = Form("engine", engine, "fake", "FakeProvider", "fp16")
        known = Evidence(baselines={"fp16": coarse})
        parity = compare([as_form("trained", rounded), half], exact, IMAGES, LABELS, evidence=known)
        assert parity.failed == failed
        assert [scale.precision for scale in parity.scales] == ["fp16", "fp32"]
        assert parity.scale(parity.stages[1]).allowed == pytest.approx(3e-3)


def test_drawn_roundings_widen_a_scale_that_was_measured_too_small() -> None:
    lucky = compare(forms(lambda x: exact(x) + 1e-9, rounded), exact, IMAGES, LABELS)
    assert lucky.failed == "trained/converted"
    known = Evidence(draws={"fp32": (rounded, exact)})
    fair = compare(forms(lambda x: exact(x) + 1e-9, rounded), exact, IMAGES, LABELS, evidence=known)
    assert fair.failed is None
    assert fair.scales[0].drawn == pytest.approx(ROUNDING, rel=0.2)
    assert (fair.scales[0].draws, fair.scales[0].drawn_images) == (2, 10)
    assert "the farthest of 2 runs" in fair.scales[0].source


def test_a_trained_network_that_rounds_more_than_its_numbers_is_blamed_itself() -> None:
    """TF32 switched on behind one's back: every form would look good beside it."""
    known = Evidence(draws={"fp32": (rounded,)})
    parity = compare(forms(lambda x: exact(x) + 1e-3, rounded), exact, IMAGES, LABELS, evidence=known)
    assert parity.failed == "trained"
    assert parity.exit_code == 1


def test_flips_are_counted_and_listed() -> None:
    wrong = at(6, (int(IMAGES[6].argmax()) + 1) % 3, float(IMAGES[6].max()) + 4.0)
    stage = compare(forms(rounded, wrong), exact, IMAGES, LABELS).stages[1]
    assert stage.flips == (6,)
    assert stage.budget.observed == 1


def test_memory_does_not_grow_with_the_number_of_images() -> None:
    def peak_bytes(count: int) -> int:
        images = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
        labels = images.argmax(axis=1)
        known = Evidence(draws={"fp32": (rounded,)})
        tracemalloc.start()
        compare(forms(rounded, rounded), exact, images, labels, batch=500, evidence=known)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes(100)  # what is allocated once
    assert peak_bytes(20_000) < peak_bytes(1_000) + 20_000  # a byte an image would be seen
