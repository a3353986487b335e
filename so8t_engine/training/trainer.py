"""SO8TTrainer: transformers' Trainer with the SO8T loss, our batches, checkpoints and controls."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from so8t_engine.config import Config
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.i18n import _
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.so8t_model import LossReport, SO8TModel, StepTotals
from so8t_engine.so8t.schedule import GateSchedule, pet_weight_at
from so8t_engine.training.batches import EpochBatches
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
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import WarningEvent
from so8t_engine.training.observer import StepObserver
from so8t_engine.training.optimizer import make_optimizer, make_scheduler
from so8t_engine.training.optimizer_state import capture_optimizer, plain, restore_optimizer
from so8t_engine.training.packing import PackedBatches
from so8t_engine.training.recorded import RecordedPasses
from so8t_engine.training.recovery import Recovery, release_memory
from so8t_engine.training.run_config import CONFIG

log = logging.getLogger(__name__)


class SO8TTrainer(Trainer):  # type: ignore[misc]
    """Trainer for an `SO8TModel`.

    Args:
        model: base with LoRA and SO8T parts, on its device.
        config: of the run.
        rows: encoded training rows.
        collate: makes a batch of tensors; where rows are packed, a `PackedCollator` takes its place.
        control: state, commands and events.
        observer: turns steps into events.
        rows_sha256: of the encoded rows; a checkpoint belongs to them.
        scratch: a folder that transformers insists on; nothing is left in it.
    """

    optimizer: torch.optim.Optimizer | None
    lr_scheduler: torch.optim.lr_scheduler.LRScheduler | None
    control: TrainerControl

    def __init__(
        self,
        model: SO8TModel,
        config: Config,
        rows: Sequence[Encoded],
        collate: Collator | PackedCollator,
        control: RunControl,
        observer: StepObserver,
        rows_sha256: str,
        scratch: Path,
    ) -> None:
        self.settings = config
        self.run_control = control
        self.observer = observer
        self.rows_sha256 = rows_sha256
        self.loaded: Loaded | None = None
        #: The generators between two steps, while a step is on its way.
        self.step_rng: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.batches = _batches(config, [len(row.input_ids) for row in rows])
        if config.training.packing:
            collate = PackedCollator(collate.pad_token_id)
        self._totals = StepTotals(1, 1, 0, 0, 1)
        self.recovery = Recovery(model)
        self._step_batches: list[dict[str, Tensor]] = []
        self._started = 0
        self._returned: Tensor | float = 0.0
        self.schedule: GateSchedule | None = None
        self.step_groups: list[dict[str, Any]] = []
        super().__init__(
            model=model,
            args=_arguments(config, model, scratch),
            train_dataset=list(rows),
            data_collator=collate,
            callbacks=[_Boundary(self)],
        )
        model.gradients = FlatGradients.for_training(list(model.trainable().values()))
        self.recorded = _recorded(model, config, collate.pad_token_id)
        if self.recorded is not None:
            model.before_evaluation = self.recorded.release
        # It prints on standard output, which belongs to --json.
        self.remove_callback(PrinterCallback)
        # Losses are already shares of the whole step (StepTotals): Trainer must not divide them again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    # -- Trainer's extension points --------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader[Any]:
        loader: DataLoader[Any] = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
        )
        # Batches stay on the host, where they are counted and cut, until their pass.
        prepared: DataLoader[Any] = self.accelerator.prepare_data_loader(loader, device_placement=False)
        return prepared

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor | None]:
        """Fetch a step's micro-batches and count them, so that every mean is over the whole step."""
        batches: list[dict[str, Tensor]] = []
        while len(batches) < num_batches and (batch := next(epoch_iterator, None)) is not None:
            batches.append(batch)
        self._step_batches, self._started, self._returned = batches, 0, 0.0
        self._totals = self._count(batches)
        self.observer.step_tokens = sum(int(b["attention_mask_NT"].sum()) for b in batches)
        return batches, torch.tensor(max(self._totals.tokens, 1), device=device)

    def _count(self, batches: list[dict[str, Tensor]]) -> StepTotals:
        return StepTotals.of([piece for batch in batches for piece in self.recovery.pieces(batch)])

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One micro-batch. If memory runs out, the step so far is repeated in smaller pieces."""
        self._started += 1
        todo = [inputs]
        while True:
            loss: Tensor | None = None
            try:
                for batch in todo:
                    for piece in self.recovery.pieces(batch):
                        share = self._pass(model, piece, num_items_in_batch, loss is None)
                        loss = share if loss is None else loss + share
            except torch.OutOfMemoryError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            else:
                assert loss is not None
                break
            self._make_room(model, reason)
            todo = self._step_batches[: self._started]
        if len(todo) > 1:  # the earlier micro-batches were counted when they were done the first time
            loss = loss - self._returned
        self._returned = self._returned + loss
        return loss

    def _pass(
        self,
        model: torch.nn.Module,
        piece: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None,
        first: bool,
    ) -> Tensor:
        """Forward and backward, from a recording where there is one."""
        if self.recorded is None:
            return self._ordinary(model, piece, num_items_in_batch)
        if not model.training:
            model.train()
        report = self.recorded.replay(
            piece, self._totals, *self._targets(), gradients_are_zero=first and self._started == 1
        )
        if report is None:
            return self.recorded.timed(lambda: self._ordinary(model, piece, num_items_in_batch))
        self.observer.add(report)
        return report.loss

    def _ordinary(
        self, model: torch.nn.Module, piece: dict[str, Tensor], num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        loss: Tensor = super().training_step(model, piece, num_items_in_batch)
        return loss

    def _targets(self) -> tuple[float, float]:
        """α's target and PET's weight at this step."""
        step, total = self.state.global_step, self.state.max_steps
        assert self.schedule is not None
        so8t = self.settings.so8t
        pet = pet_weight_at(step, total, so8t.pet_weights, so8t.pet_fractions)
        return self.schedule.alpha_at(step + 1, total), pet

    def _make_room(self, model: torch.nn.Module, reason: str) -> None:
        if self.recorded is not None:
            self.recorded.release()
        model.zero_grad(set_to_none=True)
        self.observer.repeat_step()
        release_memory()
        # A risky change: what stands is the state after the last whole step.
        self.observer.save_once(self, "change")
        change = self.recovery.change(
            max(len(batch["task_N"]) for batch in self._step_batches),
            max(batch["input_ids_NT"].numel() for batch in self._step_batches),
        )
        self._totals = self._count(self._step_batches)
        self.run_control.emit(
            WarningEvent(
                kind="oom",
                sentence=_(
                    "Memory ran out in step %(step)d (%(reason)s); the step is repeated and nothing is lost."
                )
                % {"step": self.state.global_step + 1, "reason": reason},
                mend=change,
            )
        )

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        alpha_target, pet_weight = self._targets()
        report: LossReport = model(inputs, self._totals, alpha_target=alpha_target, pet_weight=pet_weight)
        self.observer.add(report)
        return report.loss

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = make_optimizer(self.so8t_model, self.settings)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self.lr_scheduler is None:
            chosen = optimizer or self.optimizer
            assert chosen is not None
            self.lr_scheduler = make_scheduler(chosen, self.settings, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after each optimizer step with loss, gradient norm and rate; Trainer's last call, with
        the run's mean loss, has none of them."""
        if "grad_norm" in logs:
            assert self.schedule is not None
            self.observer.step(self.state, logs, self.schedule, self.step_groups)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    # -- checkpoints -----------------------------------------------------------------------------

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


class _Boundary(TrainerCallback):  # type: ignore[misc]
    """Where the loop asks what a person wants: between forward passes and after each step."""

    def __init__(self, trainer: SO8TTrainer) -> None:
        self.trainer = trainer

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
            if self.trainer.run_control.ending:
                control.should_training_stop = True
        return control


def _batches(config: Config, lengths: list[int]) -> EpochBatches | PackedBatches:
    training = config.training
    if training.packing:
        return PackedBatches(lengths, training.batch_size * config.data.max_length, training.seed)
    return EpochBatches(lengths, training.batch_size, training.seed, training.length_grouping)


def _recorded(model: SO8TModel, config: Config, pad_token_id: int) -> RecordedPasses | None:
    wanted = config.training.recorded_passes
    dtype = model.causal_lm.lm_head.weight.dtype
    if wanted == "off":
        return None
    reason = RecordedPasses.possible(model, dtype, packing=config.training.packing)
    if reason is not None or model.gradients is None:
        log.info("passes are not recorded: %s", reason or "gradients are apart")
        return None
    return RecordedPasses(
        model, dtype, config.data.max_length, pad_token_id,
        limit=config.memory.limit_gib * 2**30, always=wanted == "on",
    )  # fmt: skip


def _arguments(config: Config, model: SO8TModel, scratch: Path) -> TrainingArguments:
    training = config.training
    device = model.so8t.theta_safe.device
    compute = model.causal_lm.lm_head.weight.dtype
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        max_grad_norm=training.max_grad_norm,
        bf16=device.type == "cuda" and compute == torch.bfloat16,
        fp16=device.type == "cuda" and compute == torch.float16,
        use_cpu=device.type == "cpu",
        seed=training.seed,
        data_seed=training.seed,
        save_strategy="no",
        eval_strategy="no",
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels_NT"],
        dataloader_pin_memory=device.type == "cuda",
    )


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and PyTorch's generators."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
