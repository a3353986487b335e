"""What a pipeline is doing, from its events. No Qt."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from so8t_engine.i18n import N_
from so8t_engine.pipeline.plan import Planned
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    Event,
    InfoEvent,
    PipelineStepEvent,
    ProgressEvent,
    StateEvent,
    WarningEvent,
)
from so8t_engine.training.states import State

STATUS_NAMES: dict[str, str] = {
    "": N_("not planned"),
    "planned": N_("to do"),
    "stale": N_("to do again"),
    "waiting": N_("waiting"),
    "running": N_("running"),
    "retrying": N_("trying again"),
    "done": N_("done"),
    "skipped": N_("up to date"),
    "off": N_("off"),
    "stopped": N_("stopped"),
    "failed": N_("failed"),
}


@dataclass
class StepView:
    """One step as it is shown.

    Args:
        status: a key of `STATUS_NAMES`. reason: why it runs, is skipped or failed.
        progress: done and of, of the work named ``what``; ``of`` None where unknown.
        began: of the present attempt, seconds since 1970. seconds: how long it took.
        expected_s, memory_bytes, disk_bytes: what an earlier call took or the step expects; ``measured``
            tells which. None where nothing is known.
        stale: what the step is to make is there from an earlier call, and out of date.
    """

    name: str
    title: str
    status: str = ""
    reason: str = ""
    what: str = ""
    progress: tuple[int, int | None] | None = None
    began: float | None = None
    seconds: float | None = None
    expected_s: float | None = None
    memory_bytes: int | None = None
    disk_bytes: int | None = None
    measured: bool = False
    attempt: int = 1
    stale: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    messages: list[tuple[str, str]] = field(default_factory=list)

    def status_name(self) -> str:
        """The status in words, to be translated."""
        return STATUS_NAMES["stale" if self.stale and self.status == "planned" else self.status]

    def fraction(self) -> float | None:
        """Of the work in hand, in [0, 1]; None where it is not known."""
        if self.status in {"done", "skipped"}:
            return 1.0
        if self.progress is None or not self.progress[1]:
            return None
        return min(1.0, self.progress[0] / self.progress[1])


class PipelineModel:
    """The steps in order, and how the last call stands."""

    def __init__(self, titles: Iterable[tuple[str, str]]) -> None:
        self.steps = {name: StepView(name, title) for name, title in titles}
        self.live = False
        self.status = ""
        self.error: tuple[str, str] | None = None
        self.seconds: float | None = None
        self._current: StepView | None = None

    @property
    def current(self) -> StepView | None:
        """The step that runs now."""
        return self._current if self.live else None

    def plan(self, planned: Iterable[Planned]) -> None:
        """Show what a call would do; while one is running nothing changes."""
        if self.live:
            return
        for one in planned:
            view = self.steps[one.name]
            view.stale = one.stale
            view.expected_s, view.measured = one.estimate.seconds, one.estimate.basis == "measured"
            view.memory_bytes, view.disk_bytes = one.estimate.memory_bytes, one.estimate.disk_bytes
            if view.status not in {"failed", "stopped"} or one.action in {"skip", "off"}:
                view.status = {"skip": "skipped", "off": "off"}.get(one.action, "planned")
                view.reason = one.reason

    def take(self, events: Iterable[Event]) -> None:
        """Apply events in order."""
        for event in events:
            self._take(event)

    def _take(self, event: Event) -> None:
        if isinstance(event, StateEvent):
            self._state(event)
        elif isinstance(event, PipelineStepEvent) and event.name in self.steps:
            self._step(event)
        elif isinstance(event, ProgressEvent) and self._current is not None:
            self._current.what, self._current.progress = event.what, (event.done, event.of)
        elif isinstance(event, InfoEvent) and self._current is not None:
            self._current.facts |= event.facts
        elif isinstance(event, WarningEvent | ErrorEvent):
            text = f"{event.sentence} {event.mend}".strip()
            if isinstance(event, ErrorEvent):
                self.error = (event.sentence, event.mend)
            if self._current is not None:
                self._current.messages.append((event.type, text))
        elif isinstance(event, EndEvent):
            self.live, self.status, self.seconds = False, event.status, event.seconds
            self._current = None

    def _state(self, event: StateEvent) -> None:
        if event.from_ is State.IDLE:  # a new call; what an earlier one left is history
            self.live, self.status, self.error, self.seconds = True, "", None, None
            for view in self.steps.values():
                view.status, view.reason, view.what, view.progress = "waiting", "", "", None
                view.seconds, view.began, view.messages = None, None, []

    def _step(self, event: PipelineStepEvent) -> None:
        view = self.steps[event.name]
        view.status, view.reason, view.attempt = event.status, event.reason, event.attempt
        if event.seconds is not None:
            view.seconds = event.seconds
        if event.facts:
            view.facts = event.facts
        if event.status == "running":
            view.began = event.time or time.time()
            view.progress, view.what = None, ""
            if event.attempt == 1:
                view.facts = {}
            self._current = view
        elif event.status in {"done", "failed", "stopped"}:
            view.progress = None

    def lost(self) -> None:
        """The process is gone without a word; the step in work was interrupted."""
        if self._current is not None and self._current.status in {"running", "retrying"}:
            self._current.status = "stopped"
        for view in self.steps.values():
            if view.status == "waiting":
                view.status = "planned"
        self.live, self._current = False, None
        self.status = self.status or "lost"
