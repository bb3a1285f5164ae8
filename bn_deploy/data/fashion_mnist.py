"""Fashion-MNIST: 60,000 images to learn from, 10,000 to be judged by, in four files.

Xiao, Rasul, Vollgraf: "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms",
arXiv:1708.07747. A file is decompressed only after its SHA-256 was found right, so that nothing unknown is
ever unpacked.
"""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from bn_deploy.artifact import sha256_bytes
from bn_deploy.data import idx
from bn_deploy.data.dataset import GARMENTS, AbsentError, Dataset, Split
from bn_deploy.data.download import FetchError, fetch
from bn_deploy.errors import DataError
from bn_deploy.spec import Track, silent

ENVIRONMENT_VARIABLE = "BN_DEPLOY_DATA"


@dataclass(frozen=True)
class File:
    """One of the four files.

    Attributes:
        name: its name, everywhere.
        sha256: digest of the compressed file.
        size_bytes: size of the compressed file.
        shape: of the array inside: (N, 28, 28) for images, (N,) for labels.
    """

    name: str
    sha256: str
    size_bytes: int
    shape: tuple[int, ...]


FILES: tuple[File, ...] = (
    File(
        "train-images-idx3-ubyte.gz",
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        26_421_880,
        (60_000, 28, 28),
    ),
    File(
        "train-labels-idx1-ubyte.gz",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        29_515,
        (60_000,),
    ),
    File(
        "t10k-images-idx3-ubyte.gz",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        4_422_102,
        (10_000, 28, 28),
    ),
    File(
        "t10k-labels-idx1-ubyte.gz",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        5_148,
        (10_000,),
    ),
)
"""In the order: training images, training labels, test images, test labels."""

MIRRORS: tuple[str, ...] = (
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
"""Folders that serve the files under their names, in the order in which they are tried."""

LICENCE = "MIT, Copyright (c) 2017 Zalando SE"


@dataclass(frozen=True)
class Place:
    """Where the files are looked for.

    Attributes:
        folder: holds the four files side by side.
        named_by: what chose it, in words.
        ours: whether this package may fill it; a folder that a person named is only read.
    """

    folder: Path
    named_by: str
    ours: bool

    def __str__(self) -> str:
        return f"{self.named_by} {self.folder}"


def cache_folder() -> Path:
    """Where downloaded files are kept, in the user's cache."""
    return platformdirs.user_cache_path("bn-deploy", appauthor=False) / "fashion-mnist"


def find(data_dir: Path | None = None) -> Place:
    """The one place that counts: `data_dir`, else $BN_DEPLOY_DATA where it is set, else the user's cache.

    A place that was named is not passed over when files are missing there: whoever names one wants that one.
    """
    if data_dir is not None:
        return Place(data_dir, "--data-dir", ours=False)
    if named := os.environ.get(ENVIRONMENT_VARIABLE):
        return Place(Path(named), f"${ENVIRONMENT_VARIABLE}", ours=False)
    return Place(cache_folder(), "the user cache", ours=True)


def load(*, data_dir: Path | None = None, download: bool = True, track: Track = silent) -> Dataset:
    """Loads Fashion-MNIST; see `find` for where from.

    Args:
        data_dir: the folder that holds the four files.
        download: whether the user's cache may be filled from the mirrors.
        track: shows the progress of downloading.

    Raises:
        AbsentError: a file is missing, and was not to be had from any mirror.
        DataError: a file is damaged, or is not the published one.
    """
    place = find(data_dir)
    if place.ours and download:
        _fill(place.folder, track)
    train_images, train_labels, test_images, test_labels = (_read(place, file) for file in FILES)
    return Dataset(
        name="fashion-mnist",
        classes=GARMENTS,
        train=Split.of(train_images, train_labels),
        test=Split.of(test_images, test_labels),
        digest=digest(FILES),
        licence=LICENCE,
    )


def digest(files: Iterable[File]) -> str:
    """The SHA-256 of the list that `sha256sum` prints of the files: it stands for all of their content."""
    return sha256_bytes("".join(f"{file.sha256}  {file.name}\n" for file in files).encode())


def _fill(folder: Path, track: Track) -> None:
    """Downloads what `folder` lacks; a damaged file there is reported by `_payload`, not painted over."""
    for file in FILES:
        path = folder / file.name
        if _size_bytes(path) is not None:
            continue
        try:
            fetch(path, sha256=file.sha256, size_bytes=file.size_bytes, mirrors=MIRRORS, track=track)
        except FetchError as error:
            raise AbsentError(str(error), _advice()) from error


def _read(place: Place, file: File) -> NDArray[np.uint8]:
    """The array in `file`, of the shape that was published."""
    path = place.folder / file.name
    payload = _payload(place, file)
    try:
        content = gzip.decompress(payload)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be decompressed: {error}") from error
    array = idx.parse(content, axes=len(file.shape), source=str(path))
    if array.shape != file.shape:
        raise DataError(f"{path} holds an array {array.shape}; Fashion-MNIST's is {file.shape}")
    return array


def _payload(place: Place, file: File) -> bytes:
    """The compressed bytes of `file`, once they are known to be the published ones."""
    path = place.folder / file.name
    again = "delete it, then download it again or copy it from a good source"
    if (size_bytes := _size_bytes(path)) is None:
        raise AbsentError(f"{place} lacks {file.name}", _advice())
    if size_bytes != file.size_bytes:
        fault = "is truncated" if size_bytes < file.size_bytes else "is not the published file"
        raise DataError(f"{path} {fault}: it has {size_bytes} bytes instead of {file.size_bytes}; {again}")
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if (found := sha256_bytes(payload)) != file.sha256:
        raise DataError(f"{path} is damaged: its SHA-256 is {found}, not {file.sha256}; {again}")
    return payload


def _size_bytes(path: Path) -> int | None:
    """The size of the file at `path`, None where there is nothing.

    Raises:
        DataError: something else is there, or nobody may look.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} is not a file")
    return status.st_size


def _advice() -> str:
    return (
        f"put {', '.join(file.name for file in FILES)} into a folder and name it with --data-dir or "
        f"${ENVIRONMENT_VARIABLE}, or take --dataset synthetic, which needs no files"
    )
