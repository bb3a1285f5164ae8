"""Timings of kernels, kept from one build to the next: one file per TensorRT version and GPU.

Builds that run at the same time each read the file, and add what they timed to what is in it by then, under
a lock: none loses what another found. A cache makes builds faster and nothing else, so whatever is wrong with
its file is told and does not stop a build.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bn_deploy.artifact import write_bytes
from bn_deploy.engine.api import TensorRT
from bn_deploy.engine.driver import Gpu
from bn_deploy.errors import InputError


def cache_path(trt: TensorRT, gpu: Gpu) -> Path | str:
    """Where the timings of `trt` on `gpu` are kept, in the user's cache; or why they cannot be."""
    try:
        import platformdirs
    except ImportError:
        return "the package platformdirs, which knows where the user's cache is, is not installed"
    major, minor = gpu.compute_capability
    device = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-")
    folder = platformdirs.user_cache_path("bn-deploy", appauthor=False) / "timing"
    return folder / f"{trt.name}-{trt.version}-sm{major}{minor}-{device}.cache"


class TimingCache:
    """One build's use of the file at `path`.

    Attributes:
        problems: what was wrong with the file, one sentence each; the build goes on without it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config: Any = None
        self.problems: list[str] = []

    def attach(self, config: Any) -> None:
        """Gives the builder's configuration what is known so far."""
        self._config = config
        timings = self._stored(config)
        if timings is None or not config.set_timing_cache(timings, False):
            if timings is not None:
                self.problems.append(f"{self._path} was made for another device; it is begun anew")
            config.set_timing_cache(config.create_timing_cache(b""), False)

    def save(self) -> None:
        """Adds what the build timed to the file."""
        timings = self._config.get_timing_cache()
        if timings is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._path.with_suffix(".lock")):
                # Another build may have written since: its timings are taken in before ours replace the file.
                other = self._stored(self._config)
                if other is not None:
                    timings.combine(other, False)  # one of another device is refused, and is then replaced
                write_bytes(self._path, bytes(timings.serialize()))
        except (OSError, InputError) as error:
            self.problems.append(f"the timings could not be kept in {self._path}: {error}")

    def _stored(self, config: Any) -> Any:
        """The file as an ITimingCache; None if there is none that can be used."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.problems.append(f"cannot read the timings in {self._path}: {error.strerror}")
            return None
        timings = config.create_timing_cache(data) if data else None
        if timings is None:
            problem = f"{self._path} holds no timings; it is begun anew"
            self.problems += [problem] if problem not in self.problems else []
        return timings


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock file at `path`; the system lets go of it when the process ends, however it ends."""
    with path.open("a+b") as file:
        _lock(file)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX)

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
