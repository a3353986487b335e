"""The half of the trainer that makes checkpoints and goes on from one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainerState

from so8t_engine.config import Config
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training.checkpoint_state import (
    FORMAT,
    OPTIMIZER,
    RNG,
    STATE,
    TRAINER_STATE,
    WEIGHTS,
    Loaded,
    Snapshot,
    capture_rng,
    capture_weights,
    restore_rng,
    restore_weights,
)
from so8t_engine.training.optimizer_state import capture_optimizer, plain, restore_optimizer
from so8t_engine.training.recovery import Recovery
from so8t_engine.training.run_config import CONFIG


class ResumableTrainer(Trainer):  # type: ignore[misc]
    """transformers' Trainer with our checkpoints instead of its own.

    Attributes:
        settings: of the run. rows_sha256: of the encoded rows; a checkpoint belongs to them.
        recovery: what was changed so that steps fit into memory.
        loaded: the checkpoint that the run goes on from.
        step_rng: the generators between two steps, while a step is on its way.
    """

    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    settings: Config
    rows_sha256: str
    recovery: Recovery
    loaded: Loaded | None
    step_rng: tuple[dict[str, Tensor], dict[str, Any]] | None

    @property
    def so8t_model(self) -> SO8TModel:
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, SO8TModel)
        return model

    def snapshot(self, progress: dict[str, Any]) -> Snapshot:
        """A copy of everything that continues the run; call it between two steps.

        Args:
            progress: what others want back from the checkpoint, as JSON.
        """
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        model, scaler = self.so8t_model, getattr(self.accelerator, "scaler", None)
        rng, rng_state = self.step_rng or capture_rng()
        moments, optimizer = capture_optimizer(plain(self.optimizer), self._names())
        state = progress | {
            "format": FORMAT,
            "step": self.state.global_step,
            "optimizer": optimizer,
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "rng": rng_state,
            "rows_sha256": self.rows_sha256,
            "recovery": self.recovery.state(),
        }
        return Snapshot(
            self.state.global_step,
            {
                WEIGHTS: capture_weights(model.trainable(), model.so8t.alpha),
                OPTIMIZER: moments,
                RNG: rng,
            },
            {
                STATE: json.dumps(state),
                TRAINER_STATE: json.dumps(dataclasses.asdict(self.state)),
                CONFIG: self.settings.to_yaml(),
            },
        )

    def continue_from(self, loaded: Loaded, scratch: Path) -> str:
        """Have `train` start where ``loaded`` ends; returns what to give it as ``resume_from_checkpoint``.

        Trainer reads its state from a folder, which is given the bytes that were verified.
        """
        self.loaded = loaded
        self.recovery.restore(loaded.state["recovery"])
        (scratch / TRAINER_STATE).write_text(loaded.trainer_state, encoding="utf-8")
        return str(scratch)

    def take_over(self, folder: str | None) -> None:
        """Stand where `continue_from` said without another step."""
        assert self.loaded is not None
        assert folder is not None
        self._load_from_checkpoint(folder)
        self.state = TrainerState.load_from_json(str(Path(folder) / TRAINER_STATE))

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.so8t_model.trainable().items()}

    # Trainer's hooks for loading. They are given a path and read what was verified instead.

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        assert self.loaded is not None
        restore_weights(self.loaded, self.so8t_model.trainable(), self.so8t_model.so8t.alpha)
        self.so8t_model.so8t.eval()
        self.so8t_model.so8t.train()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.loaded is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        state = self.loaded.state
        restore_optimizer(plain(self.optimizer), self._names(), self.loaded.optimizer, state["optimizer"])
        self.lr_scheduler.load_state_dict(dict(state["scheduler"]))

    def _load_scaler(self, checkpoint: str | None) -> None:
        scaler = getattr(self.accelerator, "scaler", None)
        if self.loaded is not None and scaler is not None and self.loaded.state["scaler"] is not None:
            scaler.load_state_dict(self.loaded.state["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self.loaded is not None:
            restore_rng(self.loaded)
