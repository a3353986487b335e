"""Turns what the trainer does into events: steps, gate, rotations, memory, checkpoints, evaluations."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save as serialise
from transformers import TrainerState

from so8t_engine.config import Config
from so8t_engine.errors import DivergedError
from so8t_engine.files import write_bytes_atomically
from so8t_engine.i18n import _
from so8t_engine.model.so8t_model import LossReport, SO8TModel
from so8t_engine.so8t.schedule import GateSchedule, phase_at, sigmoid
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import (
    GateEvent,
    RotationEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.heldout import HeldOut
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.saver import CheckpointSaver
from so8t_engine.training.states import State
from so8t_engine.training.step_terms import StepTerms

if TYPE_CHECKING:
    from so8t_engine.training.samples import SampleWriter
    from so8t_engine.training.trainer import SO8TTrainer

log = logging.getLogger(__name__)

#: |α − target| at which a learned α is said to have converged.
CONVERGED = 0.01
#: Steps in a row that a loss scaler may leave out: from 65,536 it halves itself down to 1 in sixteen.
SKIPPED_STEPS = 20


class StepObserver:
    """Collects one optimizer step's figures and reports them; acts on commands between steps.

    Args:
        model: for α and the rotations.
        config: of the run.
        run: its directory.
        control: where events go.
        held_out: evaluates when it is due.
    """

    def __init__(
        self,
        model: SO8TModel,
        config: Config,
        run: RunDirectory,
        control: RunControl,
        held_out: HeldOut,
    ) -> None:
        self._model = model
        self._config = config
        self._run = run
        self._control = control
        self._held_out = held_out
        self._evaluate = held_out.during
        self.samples: SampleWriter | None = None
        self.saver = CheckpointSaver(run, config.checkpoints, control.emit)
        self._asked = False
        self.terms = StepTerms()
        self._began = time.perf_counter()
        self.step_tokens = 0
        self.trained_s = 0.0
        self.converged_at: int | None = None
        self.last_loss: float | None = None
        self._not_finite = 0

    def begin_step(self) -> None:
        """A step's first forward pass is about to begin."""
        self.terms.clear()
        self._began = time.perf_counter()

    def repeat_step(self) -> None:
        """The step's passes so far do not count: they are done again."""
        self.terms.clear()

    def add(self, report: LossReport) -> None:
        """Add a micro-batch's shares; nothing is read from the card yet."""
        self.terms.add(report)

    def say(self) -> dict[str, Any]:
        """What the other processes are told of this one's part of the step: nothing."""
        return {}

    def hear(self, said: list[dict[str, Any]]) -> None:
        """Tell what the other processes said of their parts."""
        for rank, heard in enumerate(said):
            for warning in heard.get("warnings", []):
                sentence = _("Process %(rank)d: %(what)s") % {"rank": rank, "what": warning["sentence"]}
                self._control.emit(WarningEvent(**warning | {"sentence": sentence}))

    def step(
        self,
        state: TrainerState,
        logs: dict[str, float],
        schedule: GateSchedule,
        groups: Sequence[dict[str, Any]],
        scaled: bool = False,
    ) -> None:
        """Report the step that just ended.

        Args:
            scaled: a loss scaler leaves out steps whose gradient is not finite.

        Raises:
            DivergedError: loss or gradient is not finite, and so the weights are not.
        """
        seconds = time.perf_counter() - self._began
        self.trained_s += seconds
        raw, weighted = self.terms.values()
        self.last_loss = sum(weighted.values())
        self._control.emit(
            StepEvent(
                step=state.global_step,
                of=state.max_steps,
                epoch=float(state.epoch or 0.0),
                loss=self.last_loss,
                terms=weighted,
                raw=raw,
                lr=logs["learning_rate"],
                lrs={str(g.get("name", i)): float(g["lr"]) for i, g in enumerate(groups)},
                grad_norm=logs.get("grad_norm"),
                tokens=self.step_tokens,
                tokens_per_s=self.step_tokens / seconds if seconds > 0 else 0.0,
                step_s=seconds,
            )
        )
        self._gate(state, schedule)
        self._check_finite(state.global_step, logs.get("grad_norm"), SKIPPED_STEPS if scaled else 0)
        if state.global_step % self._config.training.instruments_every == 0 or state.global_step == 1:
            self.rotation(state.global_step)

    def _check_finite(self, step: int, grad_norm: float | None, skipped: int) -> None:
        """A run must neither save such weights over good ones nor call them finished."""
        finite = all(value is None or math.isfinite(value) for value in (self.last_loss, grad_norm))
        self._not_finite = 0 if finite else self._not_finite + 1
        if self._not_finite > skipped:
            raise DivergedError(
                _("The loss or its gradient is no finite number any more since step %(step)d.")
                % {"step": step - self._not_finite + 1},
                _(
                    "What stands in the checkpoints is from before. Start a new run with a lower "
                    "learning rate or smaller loss weights, and look for odd rows."
                ),
            )

    def _gate(self, state: TrainerState, schedule: GateSchedule) -> None:
        so8t = self._model.so8t
        alpha = float(so8t.alpha.detach())
        target = self._config.so8t.alpha_target
        step = state.global_step
        if so8t.gate_learned and self.converged_at is None and abs(alpha - target) <= CONVERGED:
            self.converged_at = step
        self._control.emit(
            GateEvent(
                step=step,
                alpha=alpha,
                target=schedule.alpha_at(step, state.max_steps),
                final_target=target,
                g=sigmoid(alpha),
                source="learned" if so8t.gate_learned else "scheduled",
                phase=phase_at(step, state.max_steps),
                converged_at=self.converged_at,
            )
        )

    @torch.no_grad()
    def rotation(self, step: int) -> None:
        """Report the instruments and store R_safe and R_cmd."""
        rotations = self._model.so8t.build_rotations()
        values = self._model.so8t.instruments(rotations)
        file = self._run.rotations / f"step-{step:08d}.safetensors"
        name: str | None = file.relative_to(self._run.path).as_posix()
        data = serialise(
            {
                "r_safe": rotations.safe_B88.cpu().contiguous(),
                "r_cmd": rotations.cmd_B88.cpu().contiguous(),
            }
        )
        try:
            write_bytes_atomically(file, data)
        except OSError as error:
            log.warning("rotations of step %d were not stored: %s", step, error)
            name = None
        self._control.emit(
            RotationEvent(
                step=step,
                commutator_mean=values["commutator_mean"],
                commutator_max=values["commutator_max"],
                orthogonality=values["orthogonality_max"],
                det_min=values["determinant_min"],
                det_max=values["determinant_max"],
                blocks=self._model.so8t.blocks,
                file=name,
                sha256=hashlib.sha256(data).hexdigest() if name else None,
            )
        )

    def boundary(self, trainer: SO8TTrainer) -> None:
        """Between two steps: evaluate, save when due or asked, pause; an abort raises."""
        control, state = self._control, trainer.state
        control.check()
        every = self._config.training.evaluate_every
        last = state.global_step >= state.max_steps
        best = False
        if every and state.global_step % every == 0 and not last and not control.ending:
            best = self._is_best(state.global_step, self._evaluate(state.global_step))
        if self.samples is not None and not control.ending and (last or self.samples.due(state.global_step)):
            self.samples.write(state.global_step)
        self._asked |= control.take_checkpoint_request()
        due = self.saver.due(state.global_step) and not last
        if best and self._config.checkpoints.keep_best:
            self.save(trainer, "best", wait=False)
        elif not self.saver.busy:  # otherwise at the next boundary: training does not wait for a disk
            if self._asked:
                self.save(trainer, "asked", wait=False)
            elif due:
                self.save(trainer, "due", wait=False)
        control.wait_while_paused(lambda: self.save(trainer, "asked"))
        control.check()

    def _is_best(self, step: int, loss: float | None) -> bool:
        best = self.saver.best
        if loss is None or loss != loss or (best is not None and loss >= best[1]):
            return False
        self.saver.best = (step, loss)
        return True

    def progress(self) -> dict[str, Any]:
        """What this observer wants back from a checkpoint."""
        return {
            "event_seq": self._control.last_seq,
            "trained_s": self.trained_s,
            "converged_at": self.converged_at,
            "last_loss": self.last_loss,
            "best": self.saver.best,
            "held_out": self._held_out.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when `progress` was called."""
        self.trained_s = float(state["trained_s"])
        self.converged_at = state["converged_at"]
        self.last_loss = state["last_loss"]
        self.saver.best = tuple(state["best"]) if state["best"] else None
        self._held_out.restore(state["held_out"])

    def save_once(self, trainer: SO8TTrainer, reason: str) -> None:
        """Save unless there is nothing to be saved yet, or this very step was."""
        if trainer.state.global_step not in {0, self.saver.saved_step}:
            self.save(trainer, reason)

    def save(self, trainer: SO8TTrainer, reason: str, *, wait: bool = True) -> bool:
        """Copy the run and publish the copy; a failure is a warning and the run goes on.

        Args:
            trainer: between two steps, or in one that will be repeated.
            reason: shown with the checkpoint.
            wait: until it stands; otherwise it is written while training goes on.

        Returns:
            Whether the checkpoint stands; without ``wait``, whether it is being written.
        """
        control = self._control
        before = control.state
        self._asked = False
        self.saver.wait()
        visible = control.move_if({before} & {State.RUNNING, State.PAUSED}, State.SAVING, reason)
        try:
            began = time.perf_counter()
            snapshot = trainer.snapshot(self.progress())
            self.saver.stalled_s += time.perf_counter() - began
            if wait:
                return self.saver.save(snapshot, reason)
            self.saver.start(snapshot, reason)
            return True
        finally:
            if visible:
                control.move_if({State.SAVING}, before)
