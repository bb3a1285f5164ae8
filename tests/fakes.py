"""A clock that moves only when told, and a runner whose every verb may take time on it."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from bn_deploy.backends.base import Array, Feeds, check_feeds
from bn_deploy.errors import InputError
from bn_deploy.spec import Precision, TensorSpec


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeRunner:
    """Adds up each row: (N, C) -> (N, 1). `spend_s` is the time of each verb; `verbs` is what was called."""

    inputs = (TensorSpec("image", (None, 4), "float32"),)
    outputs = (TensorSpec("logits", (None, 1), "float32"),)
    device = "fake device"
    precision = Precision.FP32
    provider = "FakeProvider"

    def __init__(
        self,
        clock: FakeClock | None = None,
        spend_s: Mapping[str, float] | None = None,
        *,
        backend: str = "fake",
        largest_batch: int | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.spend_s = dict(spend_s or {})
        self.backend = backend
        self.largest_batch = largest_batch
        self.verbs: list[str] = []
        self._rows: Array | None = None
        self._sums: Array | None = None

    def load(self, feeds: Feeds) -> None:
        batch = check_feeds(self.inputs, feeds)
        if self.largest_batch is not None and batch > self.largest_batch:
            raise InputError(f"batch {batch} is above {self.largest_batch}")
        self._did("load")
        self._rows = feeds["image"].copy()

    def enqueue(self) -> None:
        assert self._rows is not None, "enqueue before load"
        self._did("enqueue")
        self._sums = self._rows.sum(axis=1, keepdims=True)

    def synchronize(self) -> None:
        self._did("synchronize")

    def fetch(self) -> dict[str, Array]:
        assert self._sums is not None, "fetch before enqueue"
        self._did("fetch")
        return {"logits": self._sums.copy()}

    def __enter__(self) -> FakeRunner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._did("close")

    def _did(self, verb: str) -> None:
        self.verbs.append(verb)
        self.clock.advance(self.spend_s.get(verb, 0.0))
