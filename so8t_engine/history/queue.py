"""Runs that wait for their turn: one file each below the runs folder, in an order that a person can change.

``RUNS/.queue/ID.yaml`` is a run's configuration, ``order.json`` their order and what happens after a failure.
The files are the truth: one that the order does not name comes last, a name without its file is nothing.
Whoever takes a run renames its file, which only one process can do; whoever starts runs one after another
leaves its mark, so that two windows do not train on one card at once.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from so8t_engine.config import Config, load_config
from so8t_engine.data.reader import EMBEDDED, HUB
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.files import forget, make_private, move, write_atomically
from so8t_engine.history.summary import RunSummary
from so8t_engine.i18n import N_, _
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.states import State


class OnFailure(StrEnum):
    """What becomes of the queue after a run has failed."""

    HOLD = "hold"
    GO_ON = "go_on"


ON_FAILURE_NAMES = {
    OnFailure.HOLD: N_("hold the queue"),
    OnFailure.GO_ON: N_("start the next run"),
}


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that waits.

    Attributes:
        added: seconds since 1970.
        problem: why its file cannot be used; empty for a good one.
    """

    id: str
    name: str
    added: float
    file: Path
    problem: str = ""


class RunQueue:
    """The queue of one runs folder. Making an instance touches nothing on disk.

    Every method reads the disk anew, for another window or the command line may have changed it. Those that
    write raise `RunError` where that is not possible.
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs.expanduser().absolute()
        self.folder = self.runs / ".queue"

    @property
    def _order(self) -> Path:
        return self.folder / "order.json"

    @property
    def _runner(self) -> Path:
        return self.folder / "runner.json"

    # Reading

    def entries(self) -> list[QueuedRun]:
        """The runs that wait, the next one first."""
        known = {path.stem: path for path in self.folder.glob("*.yaml")} if self.folder.is_dir() else {}
        order = [id_ for id_ in self._record()[0] if id_ in known]
        rest = sorted((id_ for id_ in known if id_ not in order), key=str)
        return [self._entry(id_, known[id_]) for id_ in [*order, *rest]]

    @staticmethod
    def _entry(id_: str, file: Path) -> QueuedRun:
        try:
            added = file.stat().st_mtime
            return QueuedRun(id_, load_config(file).name, added, file)
        except ConfigError as error:
            return QueuedRun(id_, id_, added, file, error.sentence)
        except OSError as error:
            return QueuedRun(id_, id_, 0.0, file, error.strerror or str(error))

    @property
    def on_failure(self) -> OnFailure:
        """What becomes of the queue after a run has failed."""
        return self._record()[1]

    def _record(self) -> tuple[list[str], OnFailure]:
        try:
            held = json.loads(self._order.read_text(encoding="utf-8"))
            order = [str(one) for one in held["order"]]
            return order, OnFailure(held["on_failure"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return [], OnFailure.HOLD  # the files themselves are the queue; only their order is lost

    # Changing

    def add(self, config: Config) -> QueuedRun:
        """Append a run. Whoever trains it may stand elsewhere: relative paths are made absolute now."""
        config = _from_anywhere(config)
        id_ = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
        file = self.folder / f"{id_}.yaml"
        order = [entry.id for entry in self.entries()]
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            make_private(self.folder)
            write_atomically(file, config.to_yaml())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._write([*order, id_], self.on_failure)
        return self._entry(id_, file)

    def remove(self, id_: str) -> None:
        """Take a run out of the queue for good. Nothing happens where it is gone already."""
        try:
            (self.folder / f"{self._known(id_)}.yaml").unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    def move(self, id_: str, place: int) -> None:
        """Put a run at ``place`` (the next one is 0); beyond the end means the end."""
        order = [entry.id for entry in self.entries()]
        order.remove(self._known(id_))
        order.insert(max(0, place), id_)
        self._write(order, self.on_failure)

    def set_on_failure(self, choice: OnFailure) -> None:
        """Choose what becomes of the queue after a run has failed."""
        self._write([entry.id for entry in self.entries()], choice)

    def _known(self, id_: str) -> str:
        if id_ not in [entry.id for entry in self.entries()]:
            raise RunError(
                _("No run %(id)s waits in %(path)s.") % {"id": id_, "path": str(self.folder)},
                _("so8t queue list names those that do."),
            )
        return id_

    def _write(self, order: list[str], on_failure: OnFailure) -> None:
        try:
            make_private(self.folder)
            write_atomically(self._order, json.dumps({"order": order, "on_failure": str(on_failure)}))
        except OSError as error:
            raise _unwritable(self.folder, error) from error

    # Taking

    def take(self) -> Config | None:
        """The next run's configuration, out of the queue; None where none waits that can be read.

        A run whose file cannot be used stays in the queue, with its problem, and the one after it is taken.
        """
        for entry in self.entries():
            if entry.problem:
                continue
            taken = entry.file.with_suffix(".taken")
            try:
                config = load_config(entry.file)
                move(entry.file, taken)
            except (OSError, ConfigError):
                continue  # another process was quicker
            forget(taken)
            return config
        return None

    def other_runner(self) -> ProcessMark | None:
        """The other process that works through this queue now, if one does."""
        mark = self._mark()
        return mark if mark is not None and mark.alive() and mark.pid != ProcessMark.current().pid else None

    def _mark(self) -> ProcessMark | None:
        try:
            return ProcessMark.parse(self._runner.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    def become_runner(self) -> bool:
        """Work through this queue from now on; False where another process does."""
        if self.other_runner() is not None:
            return False
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
            make_private(self.folder)
            write_atomically(self._runner, ProcessMark.current().to_json())
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return True

    def resign(self) -> None:
        """Work through it no more."""
        if self._mark() == ProcessMark.current():
            forget(self._runner)


def _from_anywhere(config: Config) -> Config:
    """The same settings with relative paths of rows and model as absolute ones."""

    def absolute(value: str | None, *, must_exist: bool) -> str | None:
        named = not value or value == EMBEDDED.rstrip(":") or value.startswith((HUB, EMBEDDED, "~"))
        if named or value is None or "\x00" in value:
            return value
        path = Path(value).absolute()
        return str(path) if path.exists() or not must_exist else value

    # The name of a model may be one of the Hub's; rows without a prefix are always files.
    model = {"path": absolute(config.model.path, must_exist=True)}
    data = {name: absolute(getattr(config.data, name), must_exist=False) for name in ("train", "validation")}
    return config.model_copy(
        update={"model": config.model.model_copy(update=model), "data": config.data.model_copy(update=data)}
    )


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        _("The queue in %(path)s cannot be written: %(reason)s.")
        % {"path": str(folder), "reason": error.strerror or str(error)},
        _("Check the folder and its permissions."),
    )


def next_may_start(state: State | None, lost: bool, on_failure: OnFailure) -> bool:
    """Whether the queue goes on after a run that ended so. A run that a person ended holds the queue."""
    if state is State.FINISHED:
        return True
    return on_failure is OnFailure.GO_ON and (lost or state is State.FAILED)


def may_follow(run: RunSummary, on_failure: OnFailure) -> bool:
    """As `next_may_start`, from a run's folder."""
    return next_may_start(run.state, run.lost, on_failure)
