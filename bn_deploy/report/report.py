"""The report of a run: everything that its files say, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bn_deploy.bench.record import LatencyRecord
from bn_deploy.report.latency_json import latency_rows
from bn_deploy.verify.parity import Parity
from bn_deploy.version import version

FORMAT = "bn-deploy-report/1"


@dataclass(frozen=True)
class Report:
    """What is known about the models of a run.

    Attributes:
        folder: the folder of the run.
        origin: of the network: "model", "norm", "dataset", "dataset_notice".
        training: the content of training.json; None if the checkpoint came from elsewhere.
        census: how often each operator occurs in the "native" and the "folded" ONNX file.
        folds: the outcome of each batch norm, as in FoldReport.
        engine: what is known of the plan; None if there is none.
        parity: the comparison; None if it was not made.
        latency: the measurement; None if it was not made.
        unavailable: what could not be done here, each with the reason.
        digests: SHA-256 of each model file, by kind.
    """

    folder: str
    origin: Mapping[str, str]
    training: Mapping[str, Any] | None
    census: Mapping[str, Mapping[str, int]]
    folds: Mapping[str, Any]
    engine: Mapping[str, Any] | None
    parity: Parity | None
    latency: LatencyRecord | None
    unavailable: Mapping[str, str]
    digests: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """That of the parity check, the only part that can fail."""
        return self.parity.exit_code if self.parity else 0

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object, in seconds; raw samples stay in latency.json."""
        return {
            "format": FORMAT,
            "version": version(),
            "folder": self.folder,
            "origin": dict(self.origin),
            "training": dict(self.training) if self.training else None,
            "census": {name: dict(ops) for name, ops in self.census.items()},
            "folds": dict(self.folds),
            "engine": dict(self.engine) if self.engine else None,
            "parity": self.parity.to_json() if self.parity else None,
            "latency": latency_rows(self.latency) if self.latency else None,
            "environment": dict(self.latency.environment) if self.latency else None,
            "unavailable": dict(self.unavailable),
            "digests": dict(self.digests),
        }
