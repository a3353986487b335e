"""The trainable whole: frozen base + LoRA + SO8T adapter, and the loss of one micro-batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.config import Config
from so8t_engine.data.packed import ROW_INDEX
from so8t_engine.model.divisors import Divisors
from so8t_engine.model.gradients import FlatGradients
from so8t_engine.model.lean.body import LeanBody, why_not_lean
from so8t_engine.model.lean.loss import linear_cross_entropy
from so8t_engine.model.lean.ops import has_room
from so8t_engine.model.packed import PackedRows, real_rows, use_packed_attention
from so8t_engine.model.settings import gate_placement, loss_weights
from so8t_engine.model.targets import resolve_targets
from so8t_engine.so8t.adapter import AdapterOutput, Rotations, SO8TAdapter
from so8t_engine.so8t.attach import attach_gate, attach_site_gates, decoder_layers_of
from so8t_engine.so8t.losses import (
    IGNORE,
    alpha_loss,
    chunked_cross_entropy,
    combine,
    commutator_hinge,
    consistency_loss,
    dual_cross_entropy,
    focal_cross_entropy,
    head_cross_entropy,
    orthogonality_loss,
)
from so8t_engine.so8t.pet import pet_loss
from so8t_engine.so8t.pet_packed import packed_pet_loss

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StepTotals:
    """What one optimizer step holds over all its micro-batches and processes, for exact means.

    Attributes:
        tokens: response tokens that carry LM loss. rows: all rows.
        task_rows, safety_rows: rows with that label. micro_batches: forward passes.
    """

    tokens: int
    rows: int
    task_rows: int
    safety_rows: int
    micro_batches: int

    @classmethod
    def of(cls, batches: list[Batch]) -> StepTotals:
        """Counted on the CPU, before the batches move to the card."""
        return cls(
            tokens=sum(int((b["labels_NT"][:, 1:] != IGNORE).sum()) for b in batches),
            rows=sum(len(b["task_N"]) for b in batches),
            task_rows=sum(int((b["task_N"] != IGNORE).sum()) for b in batches),
            safety_rows=sum(int((b["safety_N"] != IGNORE).sum()) for b in batches),
            micro_batches=len(batches),
        )

    def divisors(self) -> Divisors:
        """What a micro-batch's sums are divided by."""
        return Divisors(
            max(self.tokens, 1), self.rows, max(self.task_rows, 1), max(self.safety_rows, 1),
            self.micro_batches, self.task_rows > 0, self.safety_rows > 0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class LossReport:
    """A micro-batch's share of the step's loss, and of each term: raw and weighted, detached."""

    loss: Tensor
    terms: dict[str, tuple[Tensor, Tensor]]


class SO8TModel(nn.Module):
    """Base model with LoRA, the SO8T gate where `placement` says, and its loss.

    The heads read R_safe h and M h of the final hidden states wherever the gate acts.

    Args:
        base: a frozen causal LM of transformers (body at ``.model``, head at ``.lm_head``).
        config: of the run.

    Raises:
        ModelError: a LoRA target or a layer of the gate does not exist.
    """

    def __init__(self, base: nn.Module, config: Config) -> None:
        super().__init__()
        from peft import LoraConfig, get_peft_model

        self.settings = config
        self.targets = resolve_targets(base, config.lora.targets)
        self.placement = gate_placement(config.so8t, len(decoder_layers_of(base)))
        lora = LoraConfig(
            r=config.lora.r,
            lora_alpha=config.lora.alpha,
            lora_dropout=config.lora.dropout,
            target_modules=self.targets,
            use_rslora=config.lora.rank_stabilised,
            task_type="CAUSAL_LM",
        )
        # peft draws LoRA's A from the global generator: seed it, so that loading does not decide it.
        torch.manual_seed(config.training.seed)
        self.peft: Any = get_peft_model(base, lora)
        self.so8t = SO8TAdapter(
            base.config.hidden_size,  # type: ignore[union-attr, arg-type]
            rotation_map=config.so8t.rotation_map,
            gate_form=config.so8t.gate_form,
            gate_learned=config.so8t.alpha_schedule == "learned",
            alpha_start=config.so8t.alpha_start,
            init_std=config.so8t.init_std,
            seed=config.training.seed,
            variant=config.so8t.variant,
        ).to(next(base.parameters()).device)
        # After LoRA, so that the hooks see the sum of base and LoRA. No part of the state: hooks have none.
        self._layer_gates = attach_site_gates(
            self.causal_lm, self.so8t, self.placement.layers, self.placement.site
        )
        memory = config.memory
        self.loss_chunk = memory.loss_chunk if memory.loss_path == "chunked" else 2**31
        self.checkpointing = self._reentrant = False
        #: Set by a trainer: where gradients stay, and what gives memory back before an evaluation.
        self.gradients: FlatGradients | None = None
        self.before_evaluation: Callable[[], None] | None = None
        #: Why the layers are transformers' own, where lean ones were asked for.
        self.not_lean = ""
        self.lean = self._lean_body(config)
        self._rows_apart = (
            self.lean is None
            and config.training.packing
            and use_packed_attention(self.causal_lm, config.data.max_length)
        )
        if config.training.gradient_checkpointing:
            self.enable_checkpointing()

    def _lean_body(self, config: Config) -> LeanBody | None:
        if config.memory.layers == "plain":
            return None
        if reason := why_not_lean(self.causal_lm, config.data.max_length):
            log.warning("the layers run as transformers wrote them: %s", reason)
            self.not_lean = reason
            return None
        return LeanBody(
            self.causal_lm,
            self.placement,
            tile=config.memory.mlp_tile,
            recomputed=config.training.gradient_checkpointing,
            kept_layers=config.memory.kept_layers,
            kept_weights=config.memory.kept_weights,
            offload=config.memory.offload_activations,
            keep_attention=config.memory.keep_attention,
            everything=float(config.memory.offload_everything == "on"),
        )

    def enable_checkpointing(self) -> None:
        """Recompute each layer's activations in the backward pass instead of keeping them."""
        self.checkpointing = True
        if self.lean is not None:
            self.lean.recomputed = True
            return
        # MatMul8bitLt keeps tensors that non-reentrant checkpointing cannot see: reentrant with int8.
        self._reentrant = self.settings.model.quantization == "int8"
        self.causal_lm.gradient_checkpointing_enable({"use_reentrant": self._reentrant})
        if self._reentrant:
            self.causal_lm.enable_input_require_grads()

    @property
    def causal_lm(self) -> Any:  # noqa: ANN401  (transformers' model classes share no useful type)
        """transformers' model with LoRA layers injected."""
        return self.peft.base_model.model

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name → parameter of everything that learns: LoRA, rotations, a learned α, heads."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def train(self, mode: bool = True) -> SO8TModel:
        """Switch the mode; the gates in layers forget the rotations of the last pass."""
        super().train(mode)
        if hasattr(self, "_layer_gates"):
            self._layer_gates.use(None)
        give_back = getattr(self, "before_evaluation", None)
        if not mode and give_back is not None:
            give_back()
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients; those of one buffer stay where they are."""
        if self.gradients is None:
            super().zero_grad(set_to_none)
        else:
            self.gradients.zero()

    def hidden_states(
        self,
        input_ids_NT: Tensor,
        attention_mask_NT: Tensor,
        rotations: Rotations | None = None,
        packed: PackedRows | None = None,
        seeds_L: Tensor | None = None,
    ) -> Tensor:
        """The body's final hidden states (N, T, H), before the gate in front of the LM head.

        Gates inside layers act with ``rotations``, or with the adapter's current ones when None. Padding is
        on the right. Where rows are ``packed``, each sees itself alone. ``seeds_L``: see `LeanBody.forward`.
        """
        if self.lean is not None:
            matrix_B88 = g = None
            if self.placement.layers:
                matrix_B88 = self.so8t.gate_matrix(rotations or self.so8t.current_rotations())
                g = self.so8t.gate.detach()
            return self.lean.forward(
                input_ids_NT, training=self.training, matrix_B88=matrix_B88, g=g, packed=packed,
                seeds_L=seeds_L,
            )  # fmt: skip
        if self.placement.layers:
            # A reentrant region runs its own backward pass through all it used: what several regions
            # shared would be gone after the first. There each hook builds its rotations.
            own = self._reentrant and self.training and torch.is_grad_enabled()
            self._layer_gates.use(None if own else rotations or self.so8t.current_rotations())
        arguments = {"attention_mask": attention_mask_NT}
        if packed is not None:
            arguments = packed.arguments(self._rows_apart)
        output = self.causal_lm.model(input_ids=input_ids_NT, use_cache=False, **arguments)
        hidden_NTH: Tensor = output.last_hidden_state
        return hidden_NTH

    def logits(self, hidden_tH: Tensor) -> Tensor:
        """The LM head on hidden states, gated where the placement says, of any leading shape."""
        head = self.causal_lm.lm_head
        logits_tV: Tensor = head(hidden_tH.to(head.weight.dtype))
        return logits_tV

    def lm_loss(
        self,
        gated_NTH: Tensor,
        labels_NT: Tensor,
        *,
        all_positions: bool = False,
        rotations: Rotations | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy over labelled tokens, and their number.

        Only positions whose next token is labelled reach the LM head: a prompt costs no logits. With
        ``all_positions`` all do, and nobody has to know how many are labelled. With ``rotations`` the hidden
        states are not gated yet, and those that reach the head are gated here.
        """
        next_NT = labels_NT[:, 1:]
        labelled = next_NT != IGNORE
        if all_positions:
            hidden_tH, wanted_t = gated_NTH[:, :-1].flatten(0, 1), next_NT.flatten()
        else:
            hidden_tH, wanted_t = gated_NTH[:, :-1][labelled], next_NT[labelled]
        if rotations is not None and len(hidden_tH):
            hidden_tH = self.so8t.gated(hidden_tH, rotations)
        head = self.causal_lm.lm_head
        plain_head = type(head) is nn.Linear and getattr(head, "bias", None) is None
        if self.lean is not None and plain_head:
            total = linear_cross_entropy(hidden_tH, head.weight, wanted_t, self.loss_chunk)
            return total, labelled.sum()
        return chunked_cross_entropy(
            hidden_tH, self.logits, wanted_t, min(self.loss_chunk, max(len(wanted_t), 1)), shift=False
        )

    def adapt(self, batch: Batch) -> tuple[Tensor, AdapterOutput]:
        """``(hidden before the gate at the LM head, adapter output)`` of a batch."""
        rotations = self.so8t.current_rotations()
        hidden_NTH = self._body(batch, rotations)
        return hidden_NTH, self._read(hidden_NTH, batch, rotations)

    def _body(
        self, batch: Batch, rotations: Rotations, seeds_L: Tensor | None = None, *, recorded: bool = False
    ) -> Tensor:
        ids_NT, mask_NT = batch["input_ids_NT"], batch["attention_mask_NT"]
        packed = PackedRows.of(batch, self.settings.data.max_length, recorded=recorded)
        return self.hidden_states(ids_NT, mask_NT, rotations, packed, seeds_L)

    def _read(
        self, hidden_NTH: Tensor, batch: Batch, rotations: Rotations, *, gate_later: bool = False
    ) -> AdapterOutput:
        out: AdapterOutput = self.so8t(
            hidden_NTH,
            batch["pool_index_N"],
            rotations,
            gate_hidden=self.placement.final and not gate_later,
        )
        return out

    def _pet(self, hidden_NTH: Tensor, batch: Batch) -> Tensor:
        if ROW_INDEX in batch:
            return packed_pet_loss(hidden_NTH, batch[ROW_INDEX], len(batch["task_N"]))
        return pet_loss(hidden_NTH, batch["attention_mask_NT"])

    @contextmanager
    def speaking(self) -> Iterator[Any]:
        """transformers' model with the gate at every place of it, in eval mode, to generate with.

        Training has its gate before the head in `forward`, where only labelled tokens reach the head;
        generation calls the head itself. The mode is put back afterwards.
        """
        was_training = self.training
        self.eval()
        try:
            if self.placement.final:
                with attach_gate(self.causal_lm, self.so8t):
                    yield self.causal_lm
            else:
                yield self.causal_lm
        finally:
            self.train(was_training)

    def forward(
        self,
        batch: Batch,
        totals: StepTotals | Divisors,
        *,
        alpha_target: float | Tensor,
        pet_weight: float | Tensor,
        seeds_L: Tensor | None = None,
    ) -> LossReport:
        """This micro-batch's share of the optimizer step's loss.

        Shares add up to the loss of the whole step, however it is cut into micro-batches: the LM term is
        a mean over the step's response tokens, head terms over its labelled rows, consistency and PET
        over its rows, and terms without rows (α, commutator) are divided by the number of micro-batches.

        With `Divisors` of tensors and ``seeds_L`` (of the layers' dropout) nothing depends on a number of
        the host, and the card is asked nothing: such a pass can be recorded.
        """
        settings = self.settings.so8t
        step = totals.divisors() if isinstance(totals, StepTotals) else totals
        rotations = self.so8t.build_rotations()
        recorded = isinstance(step.tokens, Tensor)
        hidden_NTH = self._body(batch, rotations, seeds_L, recorded=recorded)
        # On the CPU time goes with tokens: only those with a label are gated.
        later = has_room(hidden_NTH) and self.placement.final and not recorded
        out = self._read(hidden_NTH, batch, rotations, gate_later=later)
        lm_sum, _count = self.lm_loss(
            out.hidden_NTH,
            batch["labels_NT"],
            all_positions=recorded,
            rotations=rotations if later else None,
        )
        task_N, safety_N = batch["task_N"], batch["safety_N"]
        places = len(task_N) / step.rows
        real_N, rows = real_rows(batch, step.rows) if recorded else (None, places)
        task_rows = (task_N != IGNORE).sum() / step.task_rows
        safety_rows = (safety_N != IGNORE).sum() / step.safety_rows
        weights = loss_weights(settings, pet_weight)
        terms: dict[str, Tensor | None] = {
            "lm": lm_sum / step.tokens,
            "consistency": rows
            * consistency_loss(out.safety_logits_N2, out.task_logits_N4, out.dual_logits_N22, real_N),
            # A mean over all places: one without a row has no tokens and counts as 0.
            "pet": places * self._pet(hidden_NTH, batch),
        }
        if step.safety:
            terms["safety"] = safety_rows * head_cross_entropy(out.safety_logits_N2, safety_N)
            terms["dual"] = safety_rows * dual_cross_entropy(out.dual_logits_N22, safety_N)
        if step.task:
            terms["task"] = task_rows * focal_cross_entropy(
                out.task_logits_N4, task_N, weights.focal_gamma, weights.task_class_weights
            )
        if self.so8t.gate_learned:
            terms["alpha"] = alpha_loss(self.so8t.alpha, alpha_target) / step.micro_batches
        if settings.rotation_map == "free":
            both = (rotations.safe_B88, rotations.cmd_B88)
            terms["orthogonality"] = sum(
                (orthogonality_loss(m) for m in both), torch.zeros((), device=hidden_NTH.device)
            ) / (2 * step.micro_batches)
        if settings.commutator_weight > 0:
            terms["commutator"] = (
                commutator_hinge(rotations.cmd_B88, rotations.safe_B88, weights.commutator_margin)
                / step.micro_batches
            )
        loss, report = combine(terms, weights)
        return LossReport(loss, report)
