"""How far a build is, from TensorRT's IProgressMonitor to a Track."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bn_deploy.engine.api import TensorRT
from bn_deploy.spec import Track

_STEPS = 100


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    inner: float = 0.0  # how far the phase inside the current step is, 0 to 1

    @property
    def fraction(self) -> float:
        return min(1.0, (self.done + self.inner) / max(1, self.steps))


class Progress:
    """Follows one build through phases that lie within each other, and never goes back.

    TensorRT calls from any thread, and an exception that passes through its callbacks would end the process:
    one that is raised there (the user's interruption, above all) is kept in `raised`, and the build stopped.

    Args:
        track: shows it.
        description: what the bar is called.
    """

    def __init__(self, track: Track, description: str) -> None:
        self._bar: Iterator[int] = track(range(_STEPS), description, _STEPS)
        self._shown = 0
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self.raised: BaseException | None = None
        next(self._bar, None)  # a bar appears with its first item, and counts an item once the next is taken

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._phases[name] = _Phase(parent or None, steps)

    def step(self, name: str) -> bool:
        """A step of a phase is done; False asks TensorRT to stop."""
        with self._lock:
            try:
                if (phase := self._phases.get(name)) is not None:
                    phase.done, phase.inner = phase.done + 1, 0.0
                    self._show(name)
            except BaseException as error:
                self.raised = error
            return self.raised is None

    def finish(self, name: str) -> None:
        """A phase is over."""
        with self._lock:
            self._phases.pop(name, None)

    def complete(self) -> None:
        """The build is done: fills the bar."""
        for _ in self._bar:
            pass

    def _show(self, name: str) -> None:
        """Passes a phase's progress up to the outermost phase, and shows that one's."""
        phase = self._phases[name]
        while phase.parent in self._phases:
            outer = self._phases[phase.parent]
            outer.inner = max(outer.inner, phase.fraction)
            phase = outer
        if phase.parent is None:
            reached = int(phase.fraction * (_STEPS - 1))
            for _ in range(reached - self._shown):
                next(self._bar, None)
            self._shown = max(self._shown, reached)


def monitor(trt: TensorRT, progress: Progress) -> Any:
    """An IProgressMonitor that reports to `progress`; only for a TensorRT that `has_progress_monitor`."""

    class Monitor(trt.module.IProgressMonitor):  # type: ignore[misc, name-defined]  # the module is untyped
        def __init__(self, module: Any) -> None:
            module.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:  # noqa: ARG002 - TensorRT's signature
            return progress.step(phase_name)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor(trt.module)
