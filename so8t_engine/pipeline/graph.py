"""The graph: plans the eight steps, runs what has to run, and survives being killed at any moment."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.pipeline.config import PipelineConfig
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError, PipelineStopped
from so8t_engine.pipeline.journal import Journal
from so8t_engine.pipeline.plan import Planned, digest_parts, estimate_of, what_changed
from so8t_engine.pipeline.registry import NAMES, make_steps
from so8t_engine.pipeline.step import Step
from so8t_engine.pipeline.store import StepStore, sha256_json
from so8t_engine.training.events import ErrorEvent, Event, PipelineStepEvent

log = logging.getLogger(__name__)
#: Seconds before the second attempt; doubled before each further one.
BACK_OFF_S = 2.0
Sink = Callable[[Event], None]


class Pipeline:
    """The eight steps of one configuration, in its folder.

    Args:
        config: what to do.
        steps: other steps than the registry's; for tests.
    """

    def __init__(self, config: PipelineConfig, steps: list[Step[Any]] | None = None) -> None:
        self.config = config
        self.work = config.work
        self.steps = steps if steps is not None else make_steps(config)
        self.names = tuple(step.name for step in self.steps)
        self.back_off_s = BACK_OFF_S

    def store(self, name: str) -> StepStore:
        """The folder of a step."""
        return StepStore(self.work / "steps" / f"{self.names.index(name) + 1}-{name}")

    def plan(self, from_: str | None = None, only: str | None = None) -> list[Planned]:
        """What a call would do now. Writes nothing.

        Raises:
            SO8TError: an unknown step, or an input from outside is missing.
        """
        self._check_names(from_, only)
        planned: list[Planned] = []
        running: set[str] = set()
        for step in self.steps:
            one = self.plan_step(step, running, self._forced(step.name, from_, only))
            if only is not None and step.name != only and one.action in {"run", "resume"}:
                one = self._untouched(one)
            if one.action in {"run", "resume"}:
                running.add(step.name)
            planned.append(one)
        return planned

    def would_delete(self, planned: list[Planned]) -> list[dict[str, Any]]:
        """What the cleanup step would delete as things stand, with kind, step, path and bytes."""
        from so8t_engine.pipeline.steps.cleanup import CleanupStep

        on = {one.name for one in planned if one.action != "off"}
        step = next((step for step in self.steps if isinstance(step, CleanupStep)), None)
        return step.listing(self.work) if step is not None and step.name in on else []

    def plan_step(self, step: Step[Any], running: set[str], forced: bool) -> Planned:
        """What to do about one step, when the steps in ``running`` run before it."""
        number, store = self.names.index(step.name) + 1, self.store(step.name)
        manifest = store.manifest()
        titles = {one.name: _(one.title) for one in self.steps}

        def planned(action: Any, reason: str, digest: str | None = None, parts: Any = None) -> Planned:  # noqa: ANN401
            return Planned(
                number, step.name, _(step.title), action, reason, digest, parts or {},
                estimate_of(step, store, self._inputs(step)), tuple(self._needed(step)), step.outputs,
                stale=manifest is not None and action in {"run", "resume"},
            )  # fmt: skip

        if not step.settings.enabled:
            return planned("off", _("switched off in the configuration"))
        before = [name for name in self._needed(step) if name in running]
        if before:
            step.external_inputs()  # what is missing is told now, not after the steps before
            return planned(
                "run", _("after %(names)s") % {"names": _(", ").join(titles[name] for name in before)}
            )
        parts = digest_parts(step, self.config.seed, self._input_contents(step))
        digest = sha256_json(parts)
        state = store.state()
        if state.get("open") and state.get("digest") == digest:
            return planned("resume", _("it was interrupted"), digest, parts)
        if manifest is None:
            return planned("run", _("it was never done"), digest, parts)
        if manifest.get("digest") != digest:
            return planned("run", what_changed(manifest.get("parts", {}), parts, titles), digest, parts)
        missing = store.problem(deep=False)
        if missing is not None:
            reason = _("its output is damaged: %(file)s") % {"file": missing}
            return planned("run", reason, digest, parts)
        if forced:
            return planned("run", _("asked for"), digest, parts)
        return planned("skip", _("nothing has changed"), digest, parts)

    def run(self, from_: str | None = None, only: str | None = None, on_event: Sink | None = None) -> int:
        """Do what has to be done.

        Returns:
            0 when everything is done, 1 when a step failed or the pipeline was stopped. A failure is an
            event and is not raised.

        Raises:
            SO8TError: nothing was begun: an unknown step, a folder that cannot be written or is in use.
        """
        self._check_names(from_, only)
        with Journal(self.work, self.config, on_event) as journal:
            for name in self.names:
                self.store(name).recover()
            try:
                self._run_all(journal, from_, only)
            except PipelineStopped:
                return journal.end("stopped")
            except _StepFailedError:
                return journal.end("failed")
            except SO8TError as error:  # an input from outside is missing
                journal.emit(ErrorEvent(kind=error.kind, sentence=error.sentence, mend=error.mend))
                return journal.end("failed")
            return journal.end("finished")

    def _run_all(self, journal: Journal, from_: str | None, only: str | None) -> None:
        again = {step.name for step in self.steps if self._forced(step.name, from_, only)}
        for step in self.steps:
            if step.settings.enabled and only in {None, step.name}:
                step.external_inputs()  # what is missing is told now, not after the steps before
        index = 0
        while index < len(self.steps):
            step = self.steps[index]
            index += 1
            if journal.stopping():
                raise PipelineStopped
            planned = self.plan_step(step, set(), step.name in again)
            if planned.action in {"off", "skip"} or (only is not None and step.name != only):
                status = "off" if planned.action == "off" else "skipped"
                left_out = planned.action not in {"off", "skip"}
                reason = _("left out") if left_out else planned.reason
                manifest = self.store(step.name).manifest() or {}
                facts = {} if left_out or status == "off" else manifest.get("facts", {})
                journal.emit(_event(planned, status, reason, facts=facts))
                continue
            if (damaged := self._damaged_input(step)) is not None:
                if only is not None or damaged in again:
                    raise PipelineError(
                        _("The output of %(name)s is damaged or was cleaned away.") % {"name": damaged},
                        _("Run the pipeline with --from %(name)s.") % {"name": damaged},
                    )
                again.add(damaged)
                index = self.names.index(damaged)
                continue
            self._run_step(step, planned, journal)
            again.discard(step.name)

    def _run_step(self, step: Step[Any], planned: Planned, journal: Journal) -> None:
        store = self.store(step.name)
        assert planned.digest is not None
        began = time.monotonic()
        attempt = 1
        while True:
            journal.emit(_event(planned, "running", planned.reason, attempt=attempt))
            try:
                if not step.available:
                    step.run(self._context(step, "", store, journal))  # says that it does not exist
                self._attempt(step, planned, store, journal, began)
                return
            except PipelineStopped:
                journal.emit(_event(planned, "stopped", seconds=time.monotonic() - began))
                raise
            except Exception as error:
                log.exception("step %s failed", step.name)
                again = attempt < self.config.attempts and step.retryable(error)
                sentence, mend, kind = _told(error)
                if not again:
                    journal.emit(ErrorEvent(kind=kind, sentence=sentence, mend=mend))
                    seconds = time.monotonic() - began
                    journal.emit(_event(planned, "failed", sentence, attempt=attempt, seconds=seconds))
                    raise _StepFailedError from error
                journal.emit(_event(planned, "retrying", sentence, attempt=attempt))
                self._wait(self.back_off_s * 2 ** (attempt - 1), journal)
                attempt += 1

    def _attempt(
        self, step: Step[Any], planned: Planned, store: StepStore, journal: Journal, began: float
    ) -> None:
        assert planned.digest is not None
        store.begin(planned.digest, keep_scratch=step.keeps_scratch)
        watch = _PeakMemory()
        try:
            result = step.run(self._context(step, planned.digest, store, journal))
        finally:
            peak = watch.close()
        if journal.stopping():
            log.info("stop asked for while %s ended", step.name)
        seconds = time.monotonic() - began
        record = {
            "schema": 1,
            "step": step.name,
            "parts": dict(planned.parts),
            "facts": dict(result.facts),
            "seconds": round(seconds, 3),
            "peak_rss": peak,
            "finished": time.time(),
        }
        store.publish(planned.digest, record, result.volatile, result.content)
        journal.emit(_event(planned, "done", planned.reason, seconds=seconds, facts=dict(result.facts)))

    def _wait(self, seconds: float, journal: Journal) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if journal.stopping():
                raise PipelineStopped
            time.sleep(min(0.1, seconds))

    def _context(self, step: Step[Any], digest: str, store: StepStore, journal: Journal) -> StepContext:
        facts = {name: (self.store(name).manifest() or {}).get("facts", {}) for name in self._needed(step)}
        return StepContext(
            output=store.partial,
            scratch=store.scratch,
            inputs=self._inputs(step),
            facts=facts,
            work=self.work,
            seed=self.config.seed,
            workers=self.config.workers or os.cpu_count() or 1,
            emit=journal.emit,
            stopping=journal.stopping,
            digest=digest,
            dask=self.config.dask,
        )

    def _needed(self, step: Step[Any]) -> list[str]:
        """Names in ``needs`` that are switched on, in the graph's order."""
        return [one.name for one in self.steps if one.name in step.needs and one.settings.enabled]

    def _inputs(self, step: Step[Any]) -> dict[str, Path]:
        needed = self._needed(step)
        return {name: self.store(name).output for name in needed if self.store(name).manifest() is not None}

    def _input_contents(self, step: Step[Any]) -> dict[str, str]:
        contents = {}
        for name in self._needed(step):
            manifest = self.store(name).manifest()
            contents[name] = str(manifest["content"]) if manifest is not None else "missing"
        return contents

    def _damaged_input(self, step: Step[Any]) -> str | None:
        for name in self._needed(step) if step.reads_inputs else ():
            if self.store(name).problem(deep=True) is not None:
                return name
        return None

    def _forced(self, name: str, from_: str | None, only: str | None) -> bool:
        if only is not None:
            return name == only
        return from_ is not None and self.names.index(name) >= self.names.index(from_)

    def _check_names(self, from_: str | None, only: str | None) -> None:
        if from_ is not None and only is not None:
            raise PipelineError(_("--from and --only exclude each other."), _("Leave one of them out."))
        for name in (from_, only):
            if name is not None and name not in self.names:
                raise PipelineError(
                    _("There is no step %(name)s.") % {"name": name},
                    _("The steps are: %(names)s.") % {"names": ", ".join(self.names or NAMES)},
                )

    def _untouched(self, planned: Planned) -> Planned:
        return Planned(
            planned.number, planned.name, planned.title, "skip", _("left out"), None, {}, planned.estimate,
            planned.inputs, planned.outputs,
        )  # fmt: skip


class _StepFailedError(Exception):
    """A step failed and has told why."""


class _PeakMemory:
    """The largest resident memory of this process and its children, sampled every quarter second."""

    def __init__(self) -> None:
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            total = 0
            for one in [process, *process.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            self._peak = max(self._peak, total)
            if self._over.wait(0.25):
                return

    def close(self) -> int:
        self._over.set()
        self._thread.join()
        return self._peak


def _told(error: Exception) -> tuple[str, str, str]:
    if isinstance(error, SO8TError):
        return error.sentence, error.mend, error.kind
    lines = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    mend = _("log.txt in the pipeline's folder holds the details.")
    return _("The step failed: %(what)s.") % {"what": what}, mend, "unexpected"


def _event(
    planned: Planned,
    status: Any,  # noqa: ANN401  (one of the event's literals)
    reason: str = "",
    *,
    attempt: int = 1,
    seconds: float | None = None,
    facts: Mapping[str, Any] | None = None,
) -> PipelineStepEvent:
    return PipelineStepEvent(
        number=planned.number,
        name=planned.name,
        status=status,
        reason=reason,
        attempt=attempt,
        seconds=seconds,
        facts=dict(facts or {}),
    )
