"""Where the training loop asks what a person wants: between forward passes and after each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from so8t_engine.training.checkpoint_state import capture_rng

if TYPE_CHECKING:
    from so8t_engine.training.trainer import SO8TTrainer


class Boundary(TrainerCallback):  # type: ignore[misc]
    """Sets what a step needs before it, and lets commands, evaluations and checkpoints in after it."""

    def __init__(self, trainer: SO8TTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_rest: object
    ) -> None:
        # All have made or read the same weights; were one to differ, it would stay different.
        self.trainer.world.broadcast(list(self.trainer.so8t_model.trainable().values()))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_rest: object
    ) -> None:
        # state.epoch is exact at an epoch's end; a resumed run is somewhere inside.
        self.trainer.batches.set_epoch(int((state.epoch or 0.0) + 1e-9))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_rest: object
    ) -> None:
        trainer = self.trainer
        so8t = trainer.so8t_model.so8t
        assert trainer.schedule is not None
        if not so8t.gate_learned:
            so8t.set_alpha(trainer.schedule.alpha_at(state.global_step + 1, state.max_steps))
        assert trainer.optimizer is not None
        # Noted here: once a step is logged, the scheduler has set the rates of the next one.
        trainer.step_groups = [{"name": g["name"], "lr": g["lr"]} for g in trainer.optimizer.param_groups]
        if trainer.world.size > 1:
            # Every process draws its own numbers, and the same ones after a resume on any number of them.
            torch.manual_seed(_seed_of(trainer.settings.training.seed, state.global_step, trainer.world.rank))
        # The generators as they are now: what is saved in the middle of a step repeats it from here.
        trainer.step_rng = capture_rng()
        trainer.observer.begin_step()

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_rest: object
    ) -> None:
        self.trainer.run_control.check()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_rest: object
    ) -> TrainerControl:
        # After the step's events are written: what happens here belongs between two steps.
        if "grad_norm" in (_rest.get("logs") or {}):  # type: ignore[operator]
            self.trainer.step_rng = None
            self.trainer.observer.boundary(self.trainer)
            # The first process decides for all; the others wait here while it evaluates, saves or pauses.
            said = self.trainer.world.exchange("boundary", {"ending": self.trainer.run_control.ending})
            if said[0]["ending"]:
                control.should_training_stop = True
        return control


def _seed_of(seed: int, step: int, rank: int) -> int:
    return ((seed * 1_000_003 + step) * 65_537 + rank) % 2**63
