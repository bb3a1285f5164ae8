"""Folds an ONNX file that came from anywhere, and checks the result before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from bn_deploy.artifact import atomic_path
from bn_deploy.errors import CheckFailed
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.verify.pair import PairParity, compare_files


@dataclass(frozen=True)
class FoldedFile:
    """What became of each batch norm of a file, and how far the result is from it; None if not checked."""

    report: FoldReport
    parity: PairParity | None


def fold_file(src: Path, dst: Path, *, check: bool = True) -> FoldedFile:
    """Folds `src` and writes `dst`, whole or not at all; with `check`, only if both compute the same.

    Raises:
        ModelError: `src` is no ONNX file that can be folded.
        CheckFailed: the two do not compute the same; `dst` is not written.
        InputError: the two cannot be compared, or `dst` cannot be written.
    """
    with atomic_path(dst) as temporary:
        report = fold_onnx(src, temporary)
        parity = compare_files(onnx.load(src), onnx.load(temporary)) if check else None
        if parity is not None and not parity.passed:
            raise CheckFailed(
                f"folding {src} changed what it computes: rms {parity.rms:.2e}, where its own type "
                f"explains {parity.rms_own:.2e}; {dst} was not written"
            )
    return FoldedFile(report, parity)
