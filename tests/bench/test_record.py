from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bn_deploy.bench.record import FORMAT, LatencyRecord
from bn_deploy.bench.replicate import Memory
from bn_deploy.errors import InputError
from tests.bench.make import DIGEST, record, result, run


def test_a_file_gives_back_the_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    whole = record(
        results=(result(cuda_graph=False, no_cuda_graph="why not"),),
        parity={"ort folded": "parity.json"},
        overhead_s=1e-7,
        conditions={"steal_s": 0.5},
        memory=(Memory("ort folded", 1, None, 3),),
        choices={"ort": {"threads": 1}},
        interrupted=True,
    )
    assert whole.results[0].no_cuda_graph == "why not"
    whole.write(path)
    assert LatencyRecord.read(path) == whole
    assert json.loads(path.read_text())["format"] == FORMAT == "bn-deploy-latency/3"


def test_the_file_spends_no_line_per_sample(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    record(results=(result([run([29_811] * 700)]),)).write(path)
    assert path.read_text().count("\n") == 1
    assert path.stat().st_size < 700 * 6 + 1500


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda row: row.update(format="bn-deploy-latency/2"),
            "has the format 'bn-deploy-latency/2'.*run `bn-deploy bench` again",
        ),
        (lambda row: row.update(format=1), "has the format 1"),
        (lambda row: row.pop("format"), "the latency record lacks format"),
        (lambda row: row.pop("environment"), "lacks environment"),
        (lambda row: row.update(verdict="faster"), "unknown fields 'verdict'"),
        (lambda row: row.update(environment=[]), "environment must be an object, not a list"),
        (lambda row: row["environment"].pop("versions"), "needs versions"),
        (lambda row: row["environment"].update(versions=["numpy"]), "needs versions"),
        (lambda row: row["options"].update(seed="x"), "options: seed must be an integer"),
        (lambda row: row["artifacts"].update(onnx=DIGEST[1:]), "artifact onnx: .* is no SHA-256"),
        (lambda row: row["artifacts"].update(onnx=DIGEST + "\n"), "artifact onnx: .* is no SHA-256"),
        (lambda row: row["artifacts"].update(onnx=None), "artifact onnx: None is no SHA-256"),
        (lambda row: row.update(dataset=None), "dataset must be a string, not null"),
        (lambda row: row.update(results=[]), "at least one result"),
        (lambda row: row["results"].append(3), "result 2 must be an object, not an integer"),
        (lambda row: row["results"][1].pop("batch"), "result 1 lacks batch"),
        (lambda row: row["results"][1].pop("no_cuda_graph"), "result 1 lacks no_cuda_graph"),
        (lambda row: row["results"][1]["runs"][0].update(samples_ns=[-1]), "result 1: run 0: .*-1 ns"),
        (lambda row: row.update(memory=[{"name": "a"}]), "memory 0 lacks"),
        (lambda row: row.update(overhead_s=None), "overhead_s must be a decimal number"),
    ],
)
def test_reading_refuses_and_names_the_file(
    damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    row = record().to_json()
    damage(row)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(row))
    with pytest.raises(InputError, match=message) as caught:
        LatencyRecord.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(InputError, match="the latency record must be an object, not a list"):
        LatencyRecord.from_json([])
