"""A further process of a run: computes its part of every step and writes nothing into the run directory.

It does what the first process says: begins when that has made the run directory, loads the same checkpoint,
ends where it ends. What it has to tell goes with the step's exchange.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from so8t_engine.config import parse_config
from so8t_engine.errors import MemoryLimitError
from so8t_engine.model.so8t_model import LossReport
from so8t_engine.training.checkpoint_state import load_checkpoint, rows_digest
from so8t_engine.training.environment import physical_cores
from so8t_engine.training.events import Event, WarningEvent
from so8t_engine.training.kernels import tell_trouble
from so8t_engine.training.limit import cap_allocator
from so8t_engine.training.preparation import prepare
from so8t_engine.training.run_config import CONFIG
from so8t_engine.training.sampling import allocator_figures, card_index
from so8t_engine.training.schedules import gate_schedule, planned_steps
from so8t_engine.training.step_terms import StepTerms
from so8t_engine.training.trainer import SO8TTrainer, seed_everything
from so8t_engine.training.world import LeftError, LostError, World

log = logging.getLogger(__name__)


class FollowerControl:
    """Where the trainer asks for commands: the first process has them, and its word comes with the steps."""

    ending = False

    def __init__(self) -> None:
        self.warnings: list[dict[str, str]] = []

    def emit(self, event: Event) -> None:
        """Keep warnings for the next exchange; the rest is told by the first process."""
        if isinstance(event, WarningEvent) and event.kind in {"oom", "kernels"}:
            self.warnings.append({"kind": event.kind, "sentence": event.sentence, "mend": event.mend})

    def check(self) -> None:
        """Nothing is asked here."""

    def check_loading(self) -> None:
        """Nothing is asked here."""


class FollowerObserver:
    """Takes the place of `StepObserver`: adds up the terms and passes on what a person should know."""

    def __init__(self, control: FollowerControl) -> None:
        self.terms = StepTerms()
        self.step_tokens = 0
        self._control = control

    def begin_step(self) -> None:
        self.terms.clear()

    repeat_step = begin_step

    def add(self, report: LossReport) -> None:
        self.terms.add(report)

    def say(self) -> dict[str, Any]:
        """Warnings since the last step, and this process's memory."""
        warnings, self._control.warnings = self._control.warnings, []
        return {"warnings": warnings, "card": allocator_figures()}

    def hear(self, said: list[dict[str, Any]]) -> None:
        """The first process tells it."""

    def save_once(self, trainer: SO8TTrainer, reason: str) -> None:
        """The first process saves."""

    def step(self, *_what: object) -> None:
        """The first process tells it."""

    def boundary(self, trainer: SO8TTrainer) -> None:
        """The first process decides."""


def follow(world: World) -> int:
    """Take part in the run that the first process leads, to its end. Returns the exit status."""
    # Ctrl+C and a closing session reach every process; the first one stops for all, and this one with it.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        _follow(world)
    except LeftError:
        return 0
    except LostError as error:
        log.warning("%s", error)
        return int(world.training)  # while loading, the first process may just have been stopped
    except Exception as error:  # (the process's outermost frame: the others are told)
        log.exception("process %d of the run failed", world.rank)
        world.fail(error)
        return 1
    return 0


def _follow(world: World) -> None:
    begin = world.exchange("begin")[0]
    config = parse_config(begin["config"], name=CONFIG)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.run.cpu_threads or max(1, physical_cores() // world.size))
    seed_everything(config.training.seed)
    control = FollowerControl()
    prepared = prepare(config, control)  # type: ignore[arg-type]
    on_card = prepared.device.type == "cuda"
    tell_trouble(control, prepared.device)  # type: ignore[arg-type]
    if on_card and config.memory.cap_allocator:
        cap_allocator(config.memory.limit_gib)
    with tempfile.TemporaryDirectory(prefix="so8t-", ignore_cleanup_errors=True) as scratch:
        join_training(world, prepared, control, Path(scratch))


def join_training(world: World, prepared: Any, control: FollowerControl, scratch: Path) -> None:  # noqa: ANN401
    """From the loaded model to the last step."""
    config, on_card = prepared.config, prepared.device.type == "cuda"
    rows = rows_digest({"train": prepared.train, **prepared.held_out})
    trainer = SO8TTrainer(
        prepared.model, config, prepared.train, prepared.collate,
        control, FollowerObserver(control), rows, scratch, world,  # type: ignore[arg-type]
    )  # fmt: skip
    trainer.schedule = gate_schedule(config, planned_steps(config, len(prepared.train), len(trainer.batches)))
    own = {"rows": rows, "device": prepared.device.type, "card": card_index() if on_card else None}
    said = world.exchange("loaded", own)[0]
    start = None
    if said["checkpoint"]:
        start = trainer.continue_from(load_checkpoint(Path(said["checkpoint"])), scratch)
    if on_card:
        world.use_card()
    if not world.exchange("train")[0]["steps"]:
        return
    world.training = True
    try:
        trainer.train(resume_from_checkpoint=start)
    except MemoryLimitError as error:
        world.fail(error)
        raise
    world.close()


def say_on_errors(world: World) -> None:
    """Log to standard error, with the number of the process: a further process has no file."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"[{world.rank}] %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.WARNING)
