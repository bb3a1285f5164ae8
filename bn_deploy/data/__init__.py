"""Data sets that a network can be trained on.

This table is the only list of them. Naming one loads nothing: its module is imported when it is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bn_deploy.errors import InputError
from bn_deploy.spec import Track, silent

if TYPE_CHECKING:
    from bn_deploy.data.dataset import Dataset


@dataclass(frozen=True)
class Source:
    """One row of the table.

    Attributes:
        name: what the user types.
        module: the file that knows the data set. It has `load(*, data_dir, download, track) -> Dataset`.
    """

    name: str
    module: str

    def load(self, *, data_dir: Path | None, download: bool, track: Track) -> Dataset:
        """The data set; see the function `load` of its module."""
        dataset: Dataset = import_module(self.module).load(data_dir=data_dir, download=download, track=track)
        return dataset


FASHION_MNIST = Source("fashion-mnist", "bn_deploy.data.fashion_mnist")
SYNTHETIC = Source("synthetic", "bn_deploy.data.synthetic")

DATASETS: tuple[Source, ...] = (FASHION_MNIST, SYNTHETIC)

AUTO = "auto"
"""Not a data set but a choice: Fashion-MNIST where it can be had, else the synthetic set, with a notice."""

CHOICES: tuple[str, ...] = (*(row.name for row in DATASETS), AUTO)


def load(name: str, *, data_dir: Path | None = None, download: bool = True, track: Track = silent) -> Dataset:
    """Loads a data set whole.

    Args:
        name: one of CHOICES.
        data_dir: the folder that holds the files, for a data set that is read from files.
        download: whether files that are nowhere on this machine may be fetched.
        track: shows the progress of downloading or drawing.

    Raises:
        InputError: `name` is none of CHOICES.
        DataError: the data set is not to be had, or a file of it is damaged. "auto" turns only the first
            into a notice: what is damaged is never swapped for something else.
    """
    if name == AUTO:
        return _real_or_synthetic(data_dir, download, track)
    for row in DATASETS:
        if row.name == name:
            return row.load(data_dir=data_dir, download=download, track=track)
    raise InputError(f"unknown data set {name!r}; there are {', '.join(CHOICES)}")


def _real_or_synthetic(data_dir: Path | None, download: bool, track: Track) -> Dataset:
    from bn_deploy.data.dataset import AbsentError

    try:
        return FASHION_MNIST.load(data_dir=data_dir, download=download, track=track)
    except AbsentError as absent:
        reason = absent.reason
    stand_in = SYNTHETIC.load(data_dir=None, download=False, track=track)
    return replace(
        stand_in,
        notice=f"NOT Fashion-MNIST but the {SYNTHETIC.name} set, drawn by this package, because {reason}; "
        "accuracies on it say nothing about Fashion-MNIST",
    )
