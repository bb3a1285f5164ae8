"""Folds an ONNX file that came from anywhere, and checks the result before it gets its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bn_deploy.errors import CheckFailed, Inconclusive
from bn_deploy.folding.graph.onnx_file import fold_onnx
from bn_deploy.folding.outcome import FoldReport
from bn_deploy.verify.pair import PairParity, compare_files


@dataclass(frozen=True)
class FoldedFile:
    """What became of each batch norm of a file, and how far the result is from it; None if not checked."""

    report: FoldReport
    parity: PairParity | None


def fold_file(
    src: Path, dst: Path, *, check: bool = True, pad_exact: bool = False, merge_branches: bool = False
) -> FoldedFile:
    """Folds `src` and writes `dst`, whole or not at all; with `check`, only if both compute the same.

    `pad_exact` and `merge_branches` are those of `fold_onnx`.

    Raises:
        ModelError: `src` is no ONNX file that can be folded.
        CheckFailed: the two do not compute the same; `dst` is not written.
        Inconclusive: the two cannot be run; `dst` is not written.
        InputError: `dst` cannot be written.
    """
    parity: PairParity | None = None

    def compare(folded: Path) -> None:
        nonlocal parity
        parity = checked(src, folded, f"{src} folded", f"{dst} was not written")

    report = fold_onnx(
        src,
        dst,
        pad_exact=pad_exact,
        merge_branches=merge_branches,
        before_naming=compare if check else None,
    )
    return FoldedFile(report, parity)


def checked(before: Path, after: Path, what: str, otherwise: str) -> PairParity:
    """Compares a file with what folding has made of it.

    Args:
        before: the one.
        after: the other.
        what: how messages call the second one.
        otherwise: what they say about the consequence.

    Raises:
        CheckFailed: the two do not compute the same.
        Inconclusive: they cannot be run.
    """
    try:
        parity = compare_files(before, after)
    except Inconclusive as error:
        raise Inconclusive(
            f"{what} was not checked: {error}; {otherwise}; --no-check does without"
        ) from error
    except CheckFailed as error:
        raise CheckFailed(f"{what} does not compute the same: {error}; {otherwise}") from error
    if not parity.passed:
        raise CheckFailed(
            f"{what} does not compute the same: the relative difference is {parity.rms:.2e}, where the "
            f"file's own type explains {parity.bound:.2e}; {otherwise}"
        )
    return parity
