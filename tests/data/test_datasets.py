from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bn_deploy import data
from bn_deploy.data import fashion_mnist, synthetic
from bn_deploy.data.dataset import Dataset, Split
from bn_deploy.errors import DataError, InputError
from tests.data.miniature import Miniature


@pytest.fixture(autouse=True)
def _small_synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "load", lambda **_: synthetic.make(30, 20))


def check(dataset: Dataset, name: str) -> None:
    assert dataset.name == name
    assert len(dataset.classes) == 10
    assert len(dataset.digest) == 64
    assert dataset.licence
    for split in (dataset.train, dataset.test):
        assert split.images.dtype == np.float32
        assert split.images.shape == (len(split), 1, 28, 28)
        assert split.images.flags.c_contiguous
        assert split.images.flags.writeable
        assert split.images.min() == 0
        assert 0.9 < split.images.max() <= 1
        assert split.labels.dtype == np.int64
        assert split.labels.shape == (len(split),)
        assert 0 <= split.labels.min() <= split.labels.max() < 10


@pytest.mark.parametrize("row", data.DATASETS, ids=lambda row: row.name)
def test_every_row_keeps_the_contract(row: data.Source, miniature: Miniature, tmp_path: Path) -> None:
    miniature.lay_out(tmp_path)
    dataset = data.load(row.name, data_dir=tmp_path)
    check(dataset, row.name)
    assert dataset.notice == ""
    assert data.load(row.name, data_dir=tmp_path).digest == dataset.digest


def test_the_choices_are_the_rows_and_auto() -> None:
    assert data.CHOICES == ("fashion-mnist", "synthetic", "auto")


def test_an_unknown_name_is_refused_with_the_choices() -> None:
    with pytest.raises(
        InputError, match="unknown data set 'mnist'; there are fashion-mnist, synthetic, auto"
    ):
        data.load("mnist")


def test_the_choices_can_be_read_without_numpy() -> None:
    code = "import sys, bn_deploy.data; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", code], check=False).returncode == 0


def test_auto_takes_the_real_set_where_it_is(miniature: Miniature, tmp_path: Path) -> None:
    dataset = data.load("auto", data_dir=miniature.lay_out(tmp_path))
    check(dataset, "fashion-mnist")
    assert dataset.notice == ""


def test_auto_says_loudly_why_it_takes_the_synthetic_set(tmp_path: Path) -> None:
    dataset = data.load("auto", data_dir=tmp_path)
    check(dataset, "synthetic")
    assert dataset.notice.startswith("NOT Fashion-MNIST but the synthetic set")
    assert f"because --data-dir {tmp_path} lacks train-images-idx3-ubyte.gz" in dataset.notice
    assert "\n" not in dataset.notice


def test_auto_takes_the_synthetic_set_where_nothing_can_be_downloaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("http://mirror.invalid/",))
    dataset = data.load("auto")
    check(dataset, "synthetic")
    assert "mirror.invalid: refused" in dataset.notice


def test_what_was_chosen_by_name_is_never_swapped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lacks train-images-idx3-ubyte\.gz"):
        data.load("fashion-mnist", data_dir=tmp_path)


def test_auto_never_swaps_a_damaged_file_for_something_else(miniature: Miniature, tmp_path: Path) -> None:
    folder = miniature.lay_out(tmp_path)
    (folder / fashion_mnist.FILES[2].name).write_bytes(b"damaged")
    with pytest.raises(DataError, match="is truncated"):
        data.load("auto", data_dir=folder)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [(3, [0, 1], "3 images come with 2 labels"), (2, [0, 10], "label 10 is none of the 10 classes")],
)
def test_a_split_that_does_not_fit_is_refused(images: int, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split.of(np.zeros((images, 28, 28), np.uint8), np.array(labels, np.uint8))


def test_brightness_is_divided_by_255_once() -> None:
    levels = np.arange(256, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None], (256, 28, 28))
    split = Split.of(images, np.zeros(256, np.uint8))
    np.testing.assert_array_equal(split.images[:, 0, 5, 7], levels.astype(np.float32) / np.float32(255))


def test_an_empty_split_is_a_split() -> None:
    assert len(Split.of(np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8))) == 0
