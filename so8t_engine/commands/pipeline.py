"""``so8t pipeline``: the eight steps without a window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine.i18n import _, with_more
from so8t_engine.pipeline import over
from so8t_engine.pipeline.config import load_pipeline_config
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.plan import Planned, size_text
from so8t_engine.pipeline.step import Estimate
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    Event,
    PipelineStepEvent,
    ProgressEvent,
    WarningEvent,
)


def run_pipeline(
    config_path: Path,
    overrides: Sequence[str],
    from_: str | None,
    only: str | None,
    dry_run: bool,
    console: Console,
) -> tuple[int, str, dict[str, Any]]:
    """Exit status, text for a person, and the result for ``--json``.

    Raises:
        SO8TError: configuration, step name or folder are not usable; nothing was begun.
    """
    pipeline = Pipeline(load_pipeline_config(config_path, list(overrides)))
    if dry_run:
        planned = pipeline.plan(from_, only)
        doomed = pipeline.would_delete(planned)
        result = {
            "work": str(pipeline.work),
            "steps": [_plan_json(one) for one in planned],
            "would_delete": doomed,
        }
        return 0, _plan_text(planned) + _doomed_text(doomed), result
    summary = _Summary(console)
    status = pipeline.run(from_, only, summary.take)
    if over.take_over(pipeline.work):  # the window that would have told it was closed meanwhile
        over.tell(summary.status)
    text = _("Pipeline folder: %(path)s") % {"path": str(pipeline.work)} + "\n"
    return status, text, {"work": str(pipeline.work), **summary.result()}


def _plan_text(planned: Sequence[Planned]) -> str:
    actions = {"run": _("runs"), "resume": _("goes on"), "skip": _("is skipped"), "off": _("is off")}
    lines = []
    for one in planned:
        told = [] if one.action in {"skip", "off"} else _expected(one.estimate)
        does = with_more(actions[one.action], one.reason)
        lines.append("  ".join([f"{one.number} {one.title}: {does}", *told]))
    return "\n".join(lines) + "\n"


def _expected(estimate: Estimate) -> list[str]:
    """Time, memory and disk, as far as they are known."""
    found = [] if estimate.seconds is None else [f"~{estimate.seconds:.0f} s"]
    if estimate.memory_bytes is not None:
        found.append(_("%(size)s of memory") % {"size": size_text(estimate.memory_bytes)})
    if estimate.disk_bytes is not None:
        found.append(_("%(size)s on disk") % {"size": size_text(estimate.disk_bytes)})
    return found


def _doomed_text(doomed: Sequence[Mapping[str, Any]]) -> str:
    if not doomed:
        return _("Cleanup would delete nothing now.") + "\n"
    total = sum(one["bytes"] for one in doomed)
    lines = [_("Cleanup would delete now (%(size).1f MB):") % {"size": total / 1e6}]
    lines += [f"  {one['kind']}  {one['bytes'] / 1e6:.1f} MB  {one['path']}" for one in doomed]
    return "\n".join(lines) + "\n"


def _plan_json(planned: Planned) -> dict[str, Any]:
    return {
        "step": planned.name,
        "number": planned.number,
        "action": planned.action,
        "reason": planned.reason,
        "digest": planned.digest,
        "inputs": list(planned.inputs),
        "outputs": list(planned.outputs),
        "estimate": {
            "seconds": planned.estimate.seconds,
            "memory_bytes": planned.estimate.memory_bytes,
            "disk_bytes": planned.estimate.disk_bytes,
            "basis": planned.estimate.basis,
        },
    }


class _Summary:
    """Prints what a person wants to see and keeps what a program wants to read."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._steps: dict[str, PipelineStepEvent] = {}
        self._warnings: list[WarningEvent] = []
        self._error: ErrorEvent | None = None
        self._end: EndEvent | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, PipelineStepEvent):
            self._steps[event.name] = event
            seconds = "" if event.seconds is None else f"  {event.seconds:.1f} s"
            self._console.print(
                f"{event.number} {event.name}: {event.status}{seconds}  {event.reason}".rstrip()
            )
        elif isinstance(event, WarningEvent | ErrorEvent):
            if isinstance(event, ErrorEvent):
                self._error = event
            else:
                self._warnings.append(event)
            self._console.print(f"{event.sentence} {event.mend}".strip())
        elif isinstance(event, ProgressEvent):
            of = "" if event.of is None else f"/{event.of}"
            self._console.print(f"  {event.what}: {event.done}{of}")
        elif isinstance(event, EndEvent):
            self._end = event

    @property
    def status(self) -> str | None:
        """How it ended."""
        return self._end.status if self._end else None

    def result(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        found: dict[str, Any] = {
            "status": self.status,
            "seconds": self._end.seconds if self._end else None,
            "steps": {
                name: {
                    "number": event.number,
                    "status": event.status,
                    "reason": event.reason,
                    "seconds": event.seconds,
                    "facts": event.facts,
                }
                for name, event in self._steps.items()
            },
            "warnings": [{"kind": w.kind, "sentence": w.sentence, "mend": w.mend} for w in self._warnings],
        }
        if self._error is not None:
            error = self._error
            found["error"] = {"kind": error.kind, "sentence": error.sentence, "mend": error.mend}
        return found
