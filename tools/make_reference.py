"""Makes models/lenet-bn: the reference checkpoint, its two ONNX files, its report and its model card.

    python tools/make_reference.py [--data-dir DIR]

Trains the textbook LeNet on Fashion-MNIST with the default recipe, so `bn-deploy run` in a fresh clone makes
the same files; everything in the model card is read from them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from bn_deploy import data
from bn_deploy import run_folder as kinds
from bn_deploy.artifact import read_json, sha256_file, write_bytes
from bn_deploy.cli.console import track
from bn_deploy.pipeline.chain import everything
from bn_deploy.report.report import Report
from bn_deploy.report.text import report_text
from bn_deploy.run_folder import RunFolder
from bn_deploy.train.recipe import Recipe

TARGET = Path(__file__).resolve().parent.parent / "models" / "lenet-bn"
KEPT = (kinds.CHECKPOINT, kinds.NATIVE, kinds.FOLDED, kinds.TRAINING_PLOT)


def card(report: Report, training: dict[str, object], licence: str) -> str:
    """The model card."""
    recipe = training["recipe"]
    assert isinstance(recipe, dict)  # noqa: S101 - written as an object by `train`
    assert report.latency is not None  # noqa: S101 - `everything` measures
    assert report.parity is not None  # noqa: S101 - `everything` compares
    versions = report.latency.environment["versions"]
    files = "\n".join(
        f"| `{path.name}` | {path.stat().st_size:,} | `{sha256_file(path)}` |"
        for path in sorted(TARGET.iterdir())
        if path.suffix in (".safetensors", ".onnx")
    )
    accuracies = "\n".join(
        f"| {s.stage} | {s.backend} {s.provider} | {s.accuracy * 100:.2f} % |" for s in report.parity.stages
    )
    return f"""# lenet-bn: the reference model

LeNet with a hand-written batch norm after each hidden layer (d2l.ai, chapter 8.5), trained on
{training["dataset"]}. Made by `tools/make_reference.py` with bn-deploy {versions["bn-deploy"]}
and torch {versions["torch"]}.

    bn-deploy export --fold-bn --checkpoint models/lenet-bn/checkpoint.safetensors

**Use.** An example to convert, fold and measure. It tells ten kinds of garment apart on 28 x 28 pixels and
is good for nothing else.

**Data.** Fashion-MNIST (Xiao, Rasul, Vollgraf 2017): 60,000 training and 10,000 test images, pixels divided
by 255. {licence}. Digest of the four files together: `{training["dataset_digest"]}`.

**Recipe.** Plain SGD, learning rate {recipe["lr"]}, batch {recipe["batch"]}, {recipe["epochs"]} epochs,
Xavier initialisation, seed {recipe["seed"]}, {training["threads"]} threads; batch-norm statistics then
re-estimated over {training["statistics_images"]:,} training images.

**Accuracy** on the test images: {float(str(training["test_accuracy_moving"])) * 100:.2f} % with the moving
averages of training, {float(str(training["test_accuracy"])) * 100:.2f} % with the re-estimated statistics.

| form | run by | accuracy |
| --- | --- | --- |
{accuracies}

**Files**

| file | bytes | SHA-256 |
| --- | --- | --- |
{files}

`report.txt` is the screen that the run printed, `training.png` its training curve.
"""


def main() -> int:
    """Trains, exports, checks, and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data-dir", type=Path)
    arguments = parser.parse_args()
    dataset = data.load("fashion-mnist", data_dir=arguments.data_dir, track=track)
    run = RunFolder(Path("runs/reference"))
    report = everything(run, dataset, Recipe(), track=track)
    TARGET.mkdir(parents=True, exist_ok=True)
    for kind in KEPT:
        shutil.copyfile(run.require(kind).path, TARGET / run.path(kind).name)
    training = read_json(run.path(kinds.TRAINING))
    write_bytes(TARGET / "report.txt", (report_text(report) + "\n").encode())
    write_bytes(TARGET / "README.md", card(report, training, dataset.licence).encode())
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main())
