"""What a running step may use: its folders, the outputs it reads, and how it speaks and listens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from so8t_engine.pipeline.errors import PipelineStopped
from so8t_engine.training.events import Event, InfoEvent, ProgressEvent, WarningEvent

#: Seconds between two progress events of the same work; the last one is always sent.
PROGRESS_S = 0.2


@dataclass
class StepContext:
    """Handed to `Step.run`.

    Args:
        output: the folder to fill. It holds what an interrupted call with the same digest left there; the
            graph publishes it, with a manifest, when ``run`` returns. Write each file beside its place and
            rename it, so that a file that exists is whole.
        scratch: for what is no result: downloads, indexes. It survives until the digest changes or the
            cleanup step deletes it, and may be used to go on after a kill.
        inputs: name of an earlier step → its published output, for each of ``needs`` that is enabled.
        facts: name of an earlier step → the facts it returned.
        work: the pipeline's own folder.
        seed: of everything random.
        workers: processes that the step may use.
        emit: writes an event; safe from any thread.
        stopping: whether a stop was asked for.
        digest: of the step's inputs, settings and code; the same whenever the step does the same.
        dask: where steps that can are to spread their work: ``local``, a scheduler's address, or empty.
    """

    output: Path
    scratch: Path
    inputs: Mapping[str, Path]
    facts: Mapping[str, Mapping[str, Any]]
    work: Path
    seed: int
    workers: int
    emit: Callable[[Event], Any]
    stopping: Callable[[], bool]
    digest: str = ""
    dask: str = ""
    _sent: dict[str, float] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise `PipelineStopped` if a stop was asked for. Call it at least every second."""
        if self.stopping():
            raise PipelineStopped

    def progress(self, what: str, done: int, of: int | None = None) -> None:
        """Tell how far ``what`` is, and check for a stop. ``what`` is translated and the same throughout."""
        self.emit_progress(what, done, of)
        self.check()

    def emit_progress(self, what: str, done: int, of: int | None = None) -> None:
        """The same without looking for a stop."""
        now = time.monotonic()
        if done in (0, of) or now - self._sent.get(what, 0.0) >= PROGRESS_S:
            self._sent[what] = now
            self.emit(ProgressEvent(what=what, done=done, of=of))

    def warn(self, kind: str, sentence: str, mend: str = "") -> None:
        """Tell something that a person should know; the step goes on."""
        self.emit(WarningEvent(kind=kind, sentence=sentence, mend=mend))

    def info(self, facts: Mapping[str, Any]) -> None:
        """Tell figures before the step's end; plain JSON."""
        self.emit(InfoEvent(facts=dict(facts)))
