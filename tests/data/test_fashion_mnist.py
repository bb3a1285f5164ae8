from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bn_deploy.data import fashion_mnist
from bn_deploy.data.dataset import AbsentError
from bn_deploy.data.download import fetch
from bn_deploy.errors import DataError
from tests.data.miniature import Miniature, idx_bytes
from tests.data.mirror import Mirror, serve

Spoil = Callable[[Miniature, Path], None]

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (file.name for file in fashion_mnist.FILES)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(fashion_mnist, "cache_folder", lambda: folder)
    return folder


@pytest.fixture(params=["named", "cache"])
def place(request: pytest.FixtureRequest, cache: Path, tmp_path: Path) -> tuple[Path, Path | None]:
    """Where the files lie, and what is passed as `data_dir` to have them looked for there."""
    named = tmp_path / "named"
    return (named, named) if request.param == "named" else (cache, None)


def test_the_four_files_become_two_splits(miniature: Miniature, tmp_path: Path) -> None:
    dataset = fashion_mnist.load(data_dir=miniature.lay_out(tmp_path))
    for split, images, labels in (
        (dataset.train, TRAIN_IMAGES, TRAIN_LABELS),
        (dataset.test, TEST_IMAGES, TEST_LABELS),
    ):
        stored = np.frombuffer(gzip.decompress(miniature.content[images]), np.uint8, offset=16)
        np.testing.assert_array_equal(np.rint(split.images.ravel() * 255), stored)
        assert split.labels.tolist() == list(gzip.decompress(miniature.content[labels])[8:])
    assert dataset.notice == ""


def test_a_named_folder_is_preferred_then_the_variable_then_the_cache(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fashion_mnist.find() == fashion_mnist.Place(cache, "the user cache", ours=True)
    monkeypatch.setenv("BN_DEPLOY_DATA", "")
    assert fashion_mnist.find().folder == cache
    monkeypatch.setenv("BN_DEPLOY_DATA", str(tmp_path / "env"))
    assert fashion_mnist.find() == fashion_mnist.Place(tmp_path / "env", "$BN_DEPLOY_DATA", ours=False)
    named = fashion_mnist.find(tmp_path / "named")
    assert named == fashion_mnist.Place(tmp_path / "named", "--data-dir", ours=False)


@pytest.mark.parametrize("named_by", ["--data-dir", "$BN_DEPLOY_DATA"])
def test_a_named_folder_that_lacks_a_file_is_neither_filled_nor_passed_over(
    miniature: Miniature, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_by: str
) -> None:
    miniature.lay_out(cache)
    folder = miniature.lay_out(tmp_path / "named")
    (folder / TEST_LABELS).unlink()
    data_dir = folder if named_by == "--data-dir" else None
    if data_dir is None:
        monkeypatch.setenv("BN_DEPLOY_DATA", str(folder))
    with serve(Mirror(b"")) as mirror:
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (mirror.url,))
        monkeypatch.setattr(fashion_mnist, "fetch", partial(fetch, schemes=("http",)))
        with pytest.raises(AbsentError) as caught:
            fashion_mnist.load(data_dir=data_dir)
        assert mirror.asked == []
    assert str(caught.value).startswith(f"{named_by} {folder} lacks {TEST_LABELS}; put ")
    assert not (folder / TEST_LABELS).exists()


@pytest.mark.parametrize("folder", ["absent", "a-file"])
def test_a_folder_that_is_none_lacks_the_files(miniature: Miniature, tmp_path: Path, folder: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(AbsentError, match=f"{folder} lacks {TRAIN_IMAGES}"):
        fashion_mnist.load(data_dir=tmp_path / folder)


def spoil_truncated(miniature: Miniature, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def spoil_longer(miniature: Miniature, path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"!")


def spoil_one_bit(miniature: Miniature, path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def spoil_folder(miniature: Miniature, path: Path) -> None:
    path.unlink()
    path.mkdir()


def publish(miniature: Miniature, path: Path, content: bytes) -> None:
    """Makes `content` the published file, so that only what comes after its digest can refuse it."""
    miniature.content[path.name] = content
    miniature.describe()
    path.write_bytes(content)


def spoil_gzip(miniature: Miniature, path: Path) -> None:
    publish(miniature, path, b"no gzip at all")


def spoil_gzip_end(miniature: Miniature, path: Path) -> None:
    publish(miniature, path, path.read_bytes()[:-9])


def spoil_gzip_inside(miniature: Miniature, path: Path) -> None:
    content = path.read_bytes()
    publish(miniature, path, content[:10] + b"\xff" * 20 + content[30:])


def spoil_idx(miniature: Miniature, path: Path) -> None:
    publish(miniature, path, gzip.compress(b"\0\0\x0d\x03"))


def spoil_shape(miniature: Miniature, path: Path) -> None:
    publish(miniature, path, gzip.compress(idx_bytes(np.zeros((8, 28, 27), np.uint8))))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_truncated, "is truncated: it has "),
        (spoil_longer, "is not the published file: it has "),
        (spoil_one_bit, "is damaged: its SHA-256 is "),
        (spoil_folder, "is not a file"),
        (spoil_gzip, "cannot be decompressed: "),
        (spoil_gzip_end, "cannot be decompressed: "),
        (spoil_gzip_inside, "cannot be decompressed: "),
        (spoil_idx, "has idx type 0x0d"),
        (spoil_shape, "holds an array (8, 28, 27); Fashion-MNIST's is (8, 28, 28)"),
    ],
)
def test_a_damaged_file_is_an_error_wherever_it_lies(
    miniature: Miniature, place: tuple[Path, Path | None], spoil: Spoil, message: str
) -> None:
    folder, data_dir = place
    miniature.lay_out(folder)
    spoil(miniature, folder / TRAIN_IMAGES)
    with pytest.raises(DataError) as caught:
        fashion_mnist.load(data_dir=data_dir)
    assert str(caught.value).startswith(f"{folder / TRAIN_IMAGES} {message}")
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, AbsentError)


def test_nothing_is_decompressed_before_its_digest_was_right(
    miniature: Miniature, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = miniature.lay_out(tmp_path)
    spoil_one_bit(miniature, folder / TRAIN_IMAGES)

    def explode(data: bytes) -> bytes:
        pytest.fail("unknown bytes were decompressed")

    monkeypatch.setattr(gzip, "decompress", explode)
    with pytest.raises(DataError, match="is damaged"):
        fashion_mnist.load(data_dir=folder)


def test_the_cache_is_filled_from_a_mirror_once(
    miniature: Miniature, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def serve_from_memory(path: Path, **terms: object) -> None:
        asked.append((path.name, terms["mirrors"]))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(miniature.content[path.name])

    monkeypatch.setattr(fashion_mnist, "MIRRORS", ("https://first/", "https://second/"))
    monkeypatch.setattr(fashion_mnist, "fetch", serve_from_memory)
    first = fashion_mnist.load()
    assert asked == [(file.name, ("https://first/", "https://second/")) for file in fashion_mnist.FILES]
    second = fashion_mnist.load()
    assert len(asked) == 4
    np.testing.assert_array_equal(first.train.images, second.train.images)


def test_only_what_is_missing_is_downloaded(
    miniature: Miniature, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    miniature.lay_out(cache)
    (cache / TEST_LABELS).unlink()
    with serve(Mirror(miniature.content[TEST_LABELS])) as mirror:
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (mirror.url,))
        monkeypatch.setattr(fashion_mnist, "fetch", partial(fetch, schemes=("http",)))
        fashion_mnist.load()
        assert len(mirror.asked) == 1


def test_without_a_network_the_error_says_what_to_do(
    miniature: Miniature, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(Mirror(b"", status=503)) as mirror:
        monkeypatch.setattr(fashion_mnist, "MIRRORS", (mirror.url,))
        monkeypatch.setattr(fashion_mnist, "fetch", partial(fetch, schemes=("http",)))
        with pytest.raises(AbsentError) as caught:
            fashion_mnist.load()
    message = str(caught.value)
    reason = f"cannot download {TRAIN_IMAGES} (127.0.0.1: HTTP 503 Service Unavailable)"
    assert message.startswith(f"{reason}; put ")
    for part in (*miniature.content, "--data-dir", "$BN_DEPLOY_DATA", "--dataset synthetic"):
        assert part in message
    assert "\n" not in message


def test_downloading_can_be_forbidden(miniature: Miniature, cache: Path) -> None:
    with pytest.raises(AbsentError, match=f"the user cache .* lacks {TRAIN_IMAGES}"):
        fashion_mnist.load(download=False)
    assert not cache.exists()


def test_every_published_digest_counts_in_the_digest_of_the_set() -> None:
    whole = fashion_mnist.digest(fashion_mnist.FILES)
    assert whole == "70ee1da676459df5750e84d47b246d54e6770d05677de8951072a64ebb08b84f"
    assert len({whole, *(fashion_mnist.digest(fashion_mnist.FILES[:n]) for n in range(4))}) == 5


@pytest.mark.realdata
def test_the_real_files_are_what_the_paper_says(fashion_mnist_dir: Path) -> None:
    dataset = fashion_mnist.load(data_dir=fashion_mnist_dir)
    assert dataset.train.images.shape == (60_000, 1, 28, 28)
    assert dataset.test.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(dataset.train.labels).tolist() == [6_000] * 10
    assert np.bincount(dataset.test.labels).tolist() == [1_000] * 10
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 1)
    assert dataset.classes[dataset.train.labels[0]] == "Ankle boot"
