"""What `verify` hands to the comparison: proofs, classes of numbers, and what it makes of other images."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json
from bn_deploy.data import synthetic
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.pipeline.make import export, train
from bn_deploy.pipeline.verification import numbers_of, verify
from bn_deploy.run_folder import RunFolder
from bn_deploy.train.recipe import Recipe
from bn_deploy.verify.certificate import STRICT
from bn_deploy.verify.parity import Limits, Parity


@pytest.mark.parametrize(
    ("facts", "numbers"),
    [
        ({"precision": "fp32", "settings": {"flags": ["TF32"]}}, "tf32"),
        ({"precision": "fp32", "settings": {"flags": []}}, None),
        ({"precision": "fp32", "settings": {}}, None),
        ({"precision": "fp16", "settings": {"flags": ["TF32"]}}, None),
        ({}, None),
    ],
)
def test_an_engine_that_may_cut_to_tf32_is_judged_as_one(
    facts: dict[str, object], numbers: str | None
) -> None:
    assert numbers_of(facts) == numbers


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A network that has learnt something."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    train(folder, dataset(), Recipe(epochs=4, batch=64, statistics_images=200), norm="torch")
    export(folder, checkpoint=None, fold_bn=True)
    return folder


def dataset() -> Dataset:
    return synthetic.make(600, 200)


def test_every_form_is_proven_and_compared_with_what_it_was_made_from(run: RunFolder) -> None:
    parity = verify(run, dataset=dataset(), bound=STRICT, limits=Limits(max_abs=1.0))
    assert parity.failed is None
    assert [step.name for step in parity.steps] == [
        "trained/converted",
        "converted/native",
        "converted/folded",
        "folded/onnx",
    ]
    assert set(parity.unavailable) == {"engine"}
    assert parity.limits.max_abs == 1.0
    for stage in parity.stages:
        assert stage.certificate is not None
        assert stage.certificate.method == STRICT
        assert stage.certificate.proven == stage.certificate.strictly > 100
    assert Parity.from_json(read_json(run.path(kinds.PARITY))) == parity


@pytest.mark.parametrize("change", ["transposed", "not normalised"])
def test_images_that_are_not_laid_out_as_in_training_trip_a_wire(run: RunFolder, change: str) -> None:
    """Every form agrees on them; only the recorded accuracy tells."""
    good = dataset()
    images = good.test.images.swapaxes(2, 3).copy() if change == "transposed" else good.test.images * 255
    bad = replace(good, test=Split(images, good.test.labels))
    parity = verify(run, dataset=bad)
    assert parity.failed == "trained"
    assert [trip.wire for trip in parity.trips] == ["accuracy"]
    assert "laid out as in training" in parity.trips[0].seen
