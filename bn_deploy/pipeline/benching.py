"""The command bench: times the forms of a run folder's network, or two ONNX files that anybody made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from bn_deploy import run_folder as kinds
from bn_deploy.backends.options import AS_IT_IS, RunOptions
from bn_deploy.bench.candidate import Candidate
from bn_deploy.bench.options import MeasureOptions
from bn_deploy.data.dataset import Dataset
from bn_deploy.pipeline.evidence import load_dataset, origin, same
from bn_deploy.pipeline.subjects import of_files, of_run
from bn_deploy.pipeline.timing import Benched, time_all
from bn_deploy.pipeline.vouching import Vouched, nobody, vouch
from bn_deploy.report.plots import plot_latency
from bn_deploy.run_folder import RunFolder
from bn_deploy.spec import Precision, Track, silent


def bench(
    run: RunFolder,
    options: MeasureOptions,
    *,
    backends: Sequence[str] = (),
    forms: Sequence[str] = (),
    threads: int | Mapping[str, int] | None = None,
    dataset: Dataset | None = None,
    data_dir: Path | None = None,
    unverified: bool = False,
    running: RunOptions = AS_IT_IS,
    precision: Precision | None = None,
    keep: bool = True,
    track: Track = silent,
) -> Benched:
    """Times the forms of the network in each backend; writes latency.json and latency.png.

    Args:
        run: where the models are.
        options: batch sizes, scope and how long.
        backends: which ones, each of which must then be there; none means all that are.
        forms: which of FORMS, in the order of the tables; none means all that there are.
        threads: CPU threads of each backend that has them; None tries which is best.
        dataset: the data whose test images are the inputs, if they are in memory already.
        data_dir: else, the folder that they are read from.
        unverified: time also what nothing vouches for.
        running: what else is asked of the backends that take it.
        precision: what the backends that can be asked for one are to compute in.
        keep: write the files; a comparison with an earlier measurement must not replace it.
        track: follows the measurement.

    Raises:
        RunFolderError: a file is missing or stale.
        NotAvailable: a backend that was named, every one, or the one that takes an option cannot run here.
        InputError: a form that the network does not have, a batch size that a candidate does not take, or an
            option that no backend here takes.
        CheckFailed: no candidate computes what the others do.
    """
    checkpoint = origin(run)
    run.prepare()  # a folder that cannot be written is found before the work
    dataset = same(dataset, checkpoint) if dataset else load_dataset(checkpoint, data_dir, track)
    subject = of_run(run, checkpoint, dataset, backends, chosen=forms, running=running, precision=precision)
    reference = run.require(kinds.NATIVE).path

    def vouched(candidates: Sequence[Candidate]) -> Vouched:
        return nobody(candidates) if unverified else vouch(candidates, subject.rows, reference, run)

    benched = time_all(subject, options, threads=threads, vouch=vouched, track=track)
    if keep:
        benched.record.write(run.path(kinds.LATENCY))
        facts = {"unavailable": benched.unavailable, "refused": benched.refused}
        run.record(kinds.LATENCY, made_from=subject.artifacts, facts=facts)
        plot_latency(benched.record, run.path(kinds.LATENCY_PLOT))
        run.record(kinds.LATENCY_PLOT, made_from=subject.artifacts)
    return benched


def bench_files(
    files: Sequence[Path],
    options: MeasureOptions,
    *,
    backends: Sequence[str] = (),
    threads: int | Mapping[str, int] | None = None,
    inputs: Path | None = None,
    unverified: bool = False,
    running: RunOptions = AS_IT_IS,
    precision: Precision | None = None,
    track: Track = silent,
) -> Benched:
    """Times ONNX files with the same inputs and outputs, on random or given inputs; writes nothing.

    Args:
        files: one or more; the first is what the others must compute.
        options: batch sizes, scope and how long.
        backends: which ones, of those that take ONNX files; none means ONNX Runtime.
        threads: CPU threads; None tries which is best.
        inputs: a .npz file with an array for each input; without it, random numbers.
        unverified: time also what does not compute the same as the first.
        running: what else is asked of the backends that take it.
        precision: what the backends that can be asked for one are to compute in.
        track: follows the measurement.

    Raises:
        InputError: a name that is no .npz or .onnx file, the same file twice, a backend that takes no ONNX
            file, a batch size that a file does not take, or an option that no backend here takes.
        NotAvailable: a backend cannot run here.
        CheckFailed: no candidate computes what the first does.
    """
    subject = of_files(files, backends, inputs, running, precision)

    def vouched(candidates: Sequence[Candidate]) -> Vouched:
        return nobody(candidates) if unverified else vouch(candidates, subject.rows, files[0])

    return time_all(subject, options, threads=threads, vouch=vouched, track=track)
