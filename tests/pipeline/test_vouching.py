"""What vouches for an engine that is to be timed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bn_deploy.backends.options import RunOptions
from bn_deploy.bench.candidate import Candidate, Source
from bn_deploy.pipeline import vouching
from bn_deploy.run_folder import RunFolder


def test_a_recording_is_compared_as_it_will_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What parity.json says of an engine was seen without a CUDA graph, or with one that is gone."""
    fault: list[str] = []
    known = SimpleNamespace(stages=[SimpleNamespace(stage="engine")], faults=lambda _: iter(fault))
    monkeypatch.setattr(vouching, "_recorded", lambda _: known)
    monkeypatch.setattr(vouching, "_compared", lambda *_: None)
    plain = Candidate("folded", "trt", Source("plan", "/somewhere/model.plan"), None)
    graph = replace(plain, running=RunOptions(cuda_graph=True))
    run = RunFolder(Path("/nowhere"))
    vouched = [vouching.vouch([one], {}, Path("reference.onnx"), run) for one in (plain, graph)]
    assert [one.by for one in vouched] == [{"trt folded": "parity.json"}, {"trt folded": "64 rows"}]
    fault.append("off")
    for one in (plain, graph):
        assert vouching.vouch([one], {}, Path("reference.onnx"), run).against == {"trt folded": "off"}
