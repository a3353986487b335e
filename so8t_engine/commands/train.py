"""``so8t train``: one run in this process."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.console import Console

from so8t_engine.config import Config, load_config
from so8t_engine.errors import RunError, SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.redaction import RedactingFormatter
from so8t_engine.training.control import RunControl, begin, install_signals
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    ProgressEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.importing import import_trainer
from so8t_engine.training.preflight import preflight
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_config import changed_config
from so8t_engine.training.run_directory import RunDirectory

if TYPE_CHECKING:
    from so8t_engine.training.world import World


def train_headless(
    config_path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    resume: bool,
    console: Console,
    on_result: Callable[[dict[str, Any]], None] = lambda result: None,
) -> int:
    """Train and return the exit status.

    Args:
        on_result: called with the result for ``--json``, even where a stop during loading ends the process.

    Raises:
        SO8TError: the configuration, the rows or the model are not usable; nothing was written.
    """
    world = _world()
    if world is not None and not world.first:
        from so8t_engine.training.follower import follow, say_on_errors

        say_on_errors(world)
        return follow(world)
    try:
        run, config = _run_directory(config_path, overrides, run_dir, resume)
        changed = resume and bool(overrides)
        return _lead(world, run, config, changed, resume, console, on_result)
    except SO8TError as error:
        if world is not None:
            world.fail(error)
        raise


def _lead(
    world: World | None,
    run: RunDirectory,
    config: Config,
    changed: bool,
    resume: bool,
    console: Console,
    on_result: Callable[[dict[str, Any]], None],
) -> int:
    handler = logging.FileHandler(run.log, encoding="utf-8")
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.INFO)
    console.print(_("Run folder: %(path)s") % {"path": str(run.path)})
    seen = _Summary(console)

    def tell() -> None:
        on_result({"run": run.id, "path": str(run.path), **seen.result()})

    def leave(status: int) -> NoReturn:
        with contextlib.suppress(OSError):  # nobody reads the result any more
            tell()
        os._exit(status)

    try:
        control = RunControl(run, seen.take, leave=leave, hang_s=config.run.stall_s)
    except RunError:
        logging.getLogger().removeHandler(handler)
        handler.close()
        raise
    # Only now: where another process trains the run, those that watch it know it by this file.
    ProcessMark.current(run.id).write(run.process)
    if changed:  # by now the run is locked for this process
        write_atomically(run.config_file, config.to_yaml())
    restore = install_signals(control)
    begin(control, resume)
    try:
        status = import_trainer()(run, resume=resume, control=control, handle_signals=False, world=world)
    finally:
        restore()
        logging.getLogger().removeHandler(handler)
        handler.close()
    tell()
    return status


def _world() -> World | None:
    """The processes that a launcher has started for this run; without one None, and torch is not imported."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from so8t_engine.training.world import World

    return World.join()


def _run_directory(
    config_path: Path, overrides: Sequence[str], run_dir: Path | None, resume: bool
) -> tuple[RunDirectory, Config]:
    """The run's folder, and its configuration; on resuming with ``--set`` what it shall be."""
    if resume:
        if run_dir is None:
            raise RunError(_("--resume needs to know which run."), _("Add --run-dir with the run's folder."))
        run = RunDirectory.open(run_dir)
        return run, changed_config(run, overrides)
    config = load_config(config_path, overrides)
    preflight(config)
    return RunDirectory.create(config, run_dir), config


class _Summary:
    """Prints what a person wants to see and keeps what a program wants to read."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: StepEvent | None = None
        self._last: StepEvent | None = None
        self._end: EndEvent | None = None
        self._error: ErrorEvent | None = None

    def take(self, event: Event) -> None:
        if isinstance(event, StepEvent):
            self._first = self._first or event
            self._last = event
            if event.step % 10 == 0 or event.step in {1, event.of}:
                self._console.print(
                    f"{event.step}/{event.of}  loss {event.loss:.4f}  lr {event.lr:.2e}  "
                    f"{event.tokens_per_s:.0f} tok/s"
                )
        elif isinstance(event, EvaluationEvent):
            metrics = "  ".join(f"{name} {value:.3f}" for name, value in event.metrics.items())
            loss = "—" if event.loss is None else f"{event.loss:.4f}"
            self._console.print(f"{event.split}: loss {loss}  {metrics}")
        elif isinstance(event, WarningEvent | ErrorEvent):
            self._error = event if isinstance(event, ErrorEvent) else self._error
            self._console.print(f"{event.sentence} {event.mend}".strip())
        elif isinstance(event, StateEvent):
            self._console.print(f"[{event.to}] {event.reason}".strip())
        elif isinstance(event, ProgressEvent) and event.done == 0:
            self._console.print(event.what)
        elif isinstance(event, EndEvent):
            self._end = event

    def result(self) -> dict[str, Any]:
        end = self._end
        found: dict[str, Any] = {
            "status": end.status if end else None,
            "step": self._last.step if self._last else end.step if end else 0,
            "of": self._last.of if self._last else None,
            "seconds": end.seconds if end else None,
            "train_loss": {
                "first": self._first.loss if self._first else None,
                "last": self._last.loss if self._last else None,
            },
            **(end.summary if end else {}),
        }
        if self._error is not None:
            found["error"] = {
                "kind": self._error.kind,
                "sentence": self._error.sentence,
                "mend": self._error.mend,
            }
        return found
