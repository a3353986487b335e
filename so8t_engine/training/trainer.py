"""SO8TTrainer: transformers' Trainer with the SO8T loss, our batches, checkpoints and controls."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerControl

from so8t_engine.config import Config
from so8t_engine.data.packed import PackedCollator
from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.i18n import _
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.so8t_model import LossReport, SO8TModel, StepTotals
from so8t_engine.so8t.fused import triton_works
from so8t_engine.so8t.schedule import GateSchedule, pet_weight_at
from so8t_engine.training.arguments import training_arguments
from so8t_engine.training.batches import EpochBatches
from so8t_engine.training.boundary import Boundary
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import WarningEvent
from so8t_engine.training.kernels import go_on_without
from so8t_engine.training.observer import StepObserver
from so8t_engine.training.optimizer import make_optimizer, make_scheduler
from so8t_engine.training.packing import PackedBatches
from so8t_engine.training.recorded import RecordedPasses
from so8t_engine.training.recovery import Recovery, release_memory
from so8t_engine.training.resumable import ResumableTrainer
from so8t_engine.training.shares import IDLE, RankBatches, ShareCollator
from so8t_engine.training.world import World

log = logging.getLogger(__name__)


class SO8TTrainer(ResumableTrainer):
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
        world: the processes that share each step.
    """

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
        world: World | None = None,
    ) -> None:
        self.settings = config
        self.world = world or World()
        self.run_control = control
        self.observer = observer
        self.rows_sha256 = rows_sha256
        self.loaded = None
        self.step_rng = None
        self.batches = _batches(config, [len(row.input_ids) for row in rows])
        self.shares = (
            RankBatches(self.batches, config.training.accumulation, self.world.rank, self.world.size)
            if self.world.size > 1
            else None
        )
        if config.training.packing:
            collate = PackedCollator(collate.pad_token_id)
        self._totals = StepTotals(1, 1, 0, 0, 1)
        self._active = 1
        self.recovery = Recovery(model)
        self._step_batches: list[dict[str, Tensor]] = []
        self._started = 0
        self._returned: Tensor | float = 0.0
        self.schedule: GateSchedule | None = None
        self.step_groups: list[dict[str, Any]] = []
        super().__init__(
            model=model,
            args=training_arguments(config, model, scratch, self.shares),
            train_dataset=list(rows),
            data_collator=collate if self.shares is None else ShareCollator(collate),
            callbacks=[Boundary(self)],
        )
        self.recorded, refused = _recorded(model, config, collate.pad_token_id, self.batches)
        if refused and config.training.recorded_passes == "on":
            control.emit(
                WarningEvent(
                    kind="recorded",
                    sentence=_("Passes are not recorded, as was asked for: %(reason)s.")
                    % {"reason": refused},
                    mend=_("They run as usual; recording changes nothing but the speed."),
                )
            )
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
            batch_sampler=self.shares or self.batches,
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
        own = StepTotals.of([batch for batch in batches if IDLE not in batch])
        tokens = sum(int(b["attention_mask_NT"].sum()) for b in batches if IDLE not in b)
        said = self.world.exchange("totals", {"totals": asdict(own), "tokens": tokens})
        counts = [heard["totals"] for heard in said]
        self._totals = StepTotals(**{name: sum(count[name] for count in counts) for name in asdict(own)})
        self._active = sum(count["rows"] > 0 for count in counts)
        self._count_passes()
        self.observer.step_tokens = sum(heard["tokens"] for heard in said)
        return batches, torch.tensor(max(self._totals.tokens, 1), device=device)

    def _pieces(self, batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        return [] if IDLE in batch else self.recovery.pieces(batch)

    def _count_passes(self) -> None:
        """Terms without rows are shared out over the processes that have rows and over their passes."""
        passes = sum(len(self._pieces(batch)) for batch in self._step_batches)
        self._totals = replace(self._totals, micro_batches=max(passes * self._active, 1))

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One micro-batch. If memory runs out, the step so far is repeated in smaller pieces; if a
        kernel of triton fails, without triton."""
        self._started += 1
        todo, clear = [inputs], self._started == 1
        while True:
            loss = torch.zeros((), device=self.args.device)
            try:
                for batch in todo:
                    for piece in self._pieces(batch):
                        loss = loss + self._pass(model, piece, num_items_in_batch, clear)
                        clear = False
            except torch.OutOfMemoryError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            except Exception as error:
                if not go_on_without(self.run_control, self._card, error):
                    raise
                reason = ""
            else:
                break
            self._undo(model)
            if reason:
                self._make_room(reason)
            clear = True
            todo = self._step_batches[: self._started]
        if len(todo) > 1:  # the earlier micro-batches were counted when they were done the first time
            loss = loss - self._returned
        self._returned = self._returned + loss
        if self._started == len(self._step_batches):
            self._join_gradients()
        return loss

    def _pass(
        self,
        model: torch.nn.Module,
        piece: dict[str, Tensor],
        num_items_in_batch: Tensor | int | None,
        clear: bool,
    ) -> Tensor:
        """Forward and backward, from a recording where there is one. ``clear``: the gradients are 0."""
        if self.recorded is not None and not triton_works(self._card):
            self._record_no_more()  # a kernel has failed since
        if self.recorded is None:
            return self._ordinary(model, piece, num_items_in_batch)
        if not model.training:
            model.train()
        report = self.recorded.replay(piece, self._totals, *self._targets(), gradients_are_zero=clear)
        if report is None:
            return self.recorded.timed(lambda: self._ordinary(model, piece, num_items_in_batch))
        self.observer.add(report)
        return report.loss

    def _ordinary(
        self, model: torch.nn.Module, piece: dict[str, Tensor], num_items_in_batch: Tensor | int | None
    ) -> Tensor:
        loss: Tensor = super().training_step(model, piece, num_items_in_batch)
        return loss

    @property
    def _card(self) -> torch.device:
        return self.so8t_model.so8t.theta_safe.device

    def _targets(self) -> tuple[float, float]:
        """α's target and PET's weight at this step."""
        step, total = self.state.global_step, self.state.max_steps
        assert self.schedule is not None
        so8t = self.settings.so8t
        pet = pet_weight_at(step, total, so8t.pet_weights, so8t.pet_fractions)
        return self.schedule.alpha_at(step + 1, total), pet

    def _join_gradients(self) -> None:
        """The step's last pass is done here: sum gradients and terms over all processes."""
        if self.world.size == 1:
            return
        # First over gloo: from here on everybody is there, and nobody waits on a card for one that is gone.
        said = self.world.exchange("step", self.observer.say())
        self.observer.hear(said)
        for rank, heard in enumerate(said):
            self.world.cards.setdefault(rank, {}).update(heard.get("card") or {})
        terms = self.observer.terms
        shares = terms.packed(self.args.device)
        model = self.so8t_model
        flat = None if model.gradients is None else model.gradients.gather()
        terms.unpack(self.world.reduce(list(model.trainable().values()), shares, flat))

    def _undo(self, model: torch.nn.Module) -> None:
        """As if the step had not begun."""
        if self.recorded is not None:
            self.recorded.release()
        model.zero_grad(set_to_none=True)
        self.observer.repeat_step()
        release_memory()

    def _record_no_more(self) -> None:
        """Recordings and seeds on the card are for triton's kernels alone."""
        assert self.recorded is not None
        self.recorded.release()
        self.recorded = None
        if self.so8t_model.lean is not None:
            self.so8t_model.lean.seeds_on_card = False

    def _make_room(self, reason: str) -> None:
        # A risky change: what stands is the state after the last whole step.
        self.observer.save_once(self, "change")
        change = self.recovery.change(
            max(len(batch["task_N"]) for batch in self._step_batches if IDLE not in batch),
            max(batch["input_ids_NT"].numel() for batch in self._step_batches if IDLE not in batch),
        )
        self._count_passes()
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
            scaled = getattr(self.accelerator, "scaler", None) is not None
            self.observer.step(self.state, logs, self.schedule, self.step_groups, scaled)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)


def _batches(config: Config, lengths: list[int]) -> EpochBatches | PackedBatches:
    training = config.training
    if training.packing:
        return PackedBatches(lengths, training.batch_size * config.data.max_length, training.seed)
    return EpochBatches(lengths, training.batch_size, training.seed, training.length_grouping)


def _recorded(
    model: SO8TModel, config: Config, pad_token_id: int, batches: EpochBatches | PackedBatches
) -> tuple[RecordedPasses | None, str]:
    """None where passes run as usual, and why; otherwise the model's gradients are put into one buffer."""
    if config.training.recorded_passes == "off":
        return None, ""
    reason = RecordedPasses.impossible(model, config)
    model.gradients = None if reason else FlatGradients.for_training(list(model.trainable().values()))
    if model.gradients is None:
        reason = reason or _("the gradients are of several kinds")
        log.warning("passes are not recorded: %s", reason)
        return None, reason
    longest, packed = config.data.max_length, isinstance(batches, PackedBatches)
    recorded = RecordedPasses(
        model, longest * config.training.batch_size if packed else longest, pad_token_id,
        limit=config.memory.limit_gib * 2**30, always=config.training.recorded_passes == "on",
        most_rows=batches.most_rows if isinstance(batches, PackedBatches) else 0,
    )  # fmt: skip
    return recorded, ""


def seed_everything(seed: int) -> None:
    """Python's, NumPy's and PyTorch's generators."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
