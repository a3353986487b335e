"""A pipeline for the window: run in a process of its own, followed through the events in its folder.

The process outlives the window if asked to ("unattended"); any window finds it again by its folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import yaml
from PySide6.QtCore import QObject, QThread, QTimer, Signal

from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.pipeline import over
from so8t_engine.pipeline.config import PipelineConfig, load_pipeline_config
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.pipeline.registry import STEPS
from so8t_engine.processes import apart
from so8t_engine.threads import wait_passively
from so8t_engine.training.events import Event
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventReader, RunDirectory
from so8t_engine.training.states import Command
from so8t_gui.models.pipeline_model import PipelineModel

POLL_S = 0.1


class _Follower(QThread):
    """Reads a pipeline's events until its process is gone.

    Signals: ``arrived``: events can be taken; ``gone``: the process has ended.
    """

    arrived = Signal()
    gone = Signal()

    def __init__(
        self, work: Path, child: subprocess.Popen[bytes] | None, offset: int, parent: QObject
    ) -> None:
        super().__init__(parent)
        self.setObjectName("PipelineFollower")
        self._run = RunDirectory(work)
        self._child = child
        self._reader = EventReader(self._run.events, offset=offset)
        self._lock = threading.Lock()
        self._waiting: list[Event] = []
        self._leaving = threading.Event()

    def take(self) -> list[Event]:
        with self._lock:
            events, self._waiting = self._waiting, []
        return events

    def leave(self) -> None:
        """Stop following; the process goes on."""
        self._leaving.set()

    def run(self) -> None:
        while not self._leaving.is_set():
            dead = self._dead()
            events = self._reader.read()
            if events:
                with self._lock:
                    first = not self._waiting
                    self._waiting.extend(events)
                if first:
                    self.arrived.emit()
            if dead:
                self.gone.emit()
                return
            self._leaving.wait(POLL_S)

    def _dead(self) -> bool:
        if self._child is not None:
            return self._child.poll() is not None
        mark = ProcessMark.read(self._run.process)
        return mark is None or not mark.alive()


class _Planner(QThread):
    """Works out what a call would do, away from the window: it may look at many files."""

    planned = Signal(object, object)

    def __init__(self, config: PipelineConfig, parent: QObject) -> None:
        super().__init__(parent)
        self._config = config

    def run(self) -> None:
        try:
            plan = Pipeline(self._config).plan()
        except SO8TError as error:
            self.planned.emit([], (error.sentence, error.mend))
        else:
            self.planned.emit(plan, None)


class PipelineController(QObject):
    """The pipeline of one configuration file.

    Signals:
        changed: the model changed.
        told: level (error, warning, good), sentence and mend for the person.
        ended: the pipeline is over; the status of the last call.
    """

    changed = Signal()
    told = Signal(str, str, str)
    ended = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.file = Path("pipeline_demo")
        self.config: PipelineConfig | None = None
        self.unattended = False
        self._follower: _Follower | None = None
        self._planner: _Planner | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.model = self._fresh()

    @staticmethod
    def _fresh() -> PipelineModel:
        return PipelineModel((step.name, step.title) for step in STEPS)

    @property
    def live(self) -> bool:
        """Whether the pipeline is being run now, by this window or anybody."""
        return self._follower is not None

    def open(self, file: Path) -> bool:
        """Take a configuration; attach where its pipeline is running. False with a message on a bad one."""
        if self.live:
            return file == self.file
        try:
            self.config = load_pipeline_config(file)
        except SO8TError as error:
            self.told.emit("error", error.sentence, error.mend)
            return False
        self.file = file
        self.model = self._fresh()
        run = RunDirectory(self.config.work)
        mark = ProcessMark.read(run.process)
        if mark is not None and mark.alive():
            self._follow(self._last_call(run), None)
        else:
            # The last call tells what the steps' outputs are.
            self.model.take(EventReader(run.events, offset=self._last_call(run)).read())
            if self.model.live:
                self.model.lost()
            self.refresh_plan()
        self.changed.emit()
        return True

    @staticmethod
    def _last_call(run: RunDirectory) -> int:
        """Where in the event file the last call begins."""
        try:
            data = run.events.read_bytes()
        except OSError:
            return 0
        at = data.rfind(b'"from":"idle"')
        return data.rfind(b"\n", 0, at) + 1 if at >= 0 else 0

    def refresh_plan(self) -> None:
        """Find out what a call would do."""
        if self.config is None or self.live or self._planner is not None:
            return
        self._planner = _Planner(self.config, self)
        self._planner.planned.connect(self._take_plan)
        self._planner.finished.connect(self._planner_done)
        self._planner.start()

    def _take_plan(self, plan: object, problem: tuple[str, str] | None) -> None:
        if problem is not None:
            self.told.emit("warning", *problem)
        elif isinstance(plan, list):
            self.model.plan(plan)
        self.changed.emit()

    def _planner_done(self) -> None:
        if self._planner is not None:
            self._planner.deleteLater()
            self._planner = None

    def start(self, from_: str | None = None, only: str | None = None) -> bool:
        """Run what has to be run, from a step on, or one step alone."""
        if self.live or not self.open(self.file) or self.live or self.config is None:
            return False
        run = RunDirectory(self.config.work)
        command = [sys.executable, "-m", "so8t_engine.cli", "pipeline", str(self.file), "--json"]
        command += ["--from", from_] if from_ else ["--only", only] if only else []
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            offset = run.events.stat().st_size if run.events.exists() else 0
            with (run.path / "output.txt").open("wb") as log:
                self._child = subprocess.Popen(
                    command,
                    env=wait_passively(dict(os.environ)),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    **apart(),
                )
        except OSError as error:
            reason = error.strerror or str(error)
            self.told.emit(
                "error",
                _("The pipeline could not be started: %(reason)s.") % {"reason": reason},
                _("Choose another folder in the configuration."),
            )
            return False
        self._follow(offset, self._child)
        return True

    def stop(self) -> None:
        """Ask the pipeline to stop; what it has done stays, and the next call goes on from there."""
        if self.live and self.config is not None:
            RunDirectory(self.config.work).send(Command.STOP)

    def _follow(self, offset: int, child: subprocess.Popen[bytes] | None) -> None:
        assert self.config is not None
        over.take_over(self.config.work)
        self._follower = _Follower(self.config.work, child, offset, self)
        self._follower.arrived.connect(self._take)
        self._follower.gone.connect(self._gone)
        self._follower.start()
        self.changed.emit()

    def _take(self) -> None:
        if self._follower is not None:
            self.model.take(self._follower.take())
            self.changed.emit()

    def _gone(self) -> None:
        follower, self._follower = self._follower, None
        if follower is None:
            return
        self.model.take(follower.take())
        follower.wait()
        follower.deleteLater()
        started = bool(self.model.status) or self.model.live
        if self.model.live or not started:
            self._tell_death()
            self.model.lost()
        elif self.model.error is not None and self.model.status == "failed":
            self.told.emit("error", *self.model.error)
        self._child = None
        status = self.model.status
        self.changed.emit()
        self.ended.emit(status)
        QTimer.singleShot(0, self, self.refresh_plan)

    def _tell_death(self) -> None:
        """Say what a process that ended without an end event left behind."""
        assert self.config is not None
        sentence, mend = _reason(self.config.work / "output.txt")
        self.told.emit("error", sentence, mend)

    def shut_down(self) -> None:
        """The window is going: an attended pipeline is asked to stop, an unattended one goes on."""
        if self._follower is not None:
            if not self.unattended:
                self.stop()
            elif self.config is not None:
                over.ask(self.config.work)  # nobody else will be there to tell the end
            self._follower.leave()
            self._follower.wait()
            self._follower = None
        if self._planner is not None:
            self._planner.wait()


def _reason(output: Path) -> tuple[str, str]:
    """The error that the process printed as JSON, or that there is none."""
    try:
        lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
        found = [yaml.safe_load(line) for line in lines if line.startswith('{"error"')]
        return str(found[-1]["error"]["sentence"]), str(found[-1]["error"]["mend"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError):
        return (
            _("The pipeline's process ended without a word."),
            _("Start it again: it goes on where it broke off. log.txt in its folder holds the details."),
        )
