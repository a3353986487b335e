"""How much memory a run will need, said before it starts. Imports no torch; takes well under a millisecond.

`so8t_engine.memory.terms` holds the arithmetic and what it rests on. Where a probe has measured the same
configuration on this device, its figure decides, and the result says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil

from so8t_engine.config import Config
from so8t_engine.i18n import N_, _
from so8t_engine.memory.geometry import ModelGeometry, model_geometry
from so8t_engine.memory.measured import ProbeResult, find, memory_digest
from so8t_engine.memory.nvml import card_name, card_total
from so8t_engine.memory.terms import EXPECTED, HIGH, LOW, step_terms

GIB = 1024**3

#: What each term is called where a person reads it, in the order of a step.
TERM_TITLES: dict[str, str] = {
    "weights": N_("Frozen weights"),
    "quantisation_constants": N_("Quantisation constants"),
    "embeddings": N_("Embedding, head and norms"),
    "lora": N_("LoRA weights"),
    "gradients": N_("Gradients"),
    "optimizer": N_("Optimizer state"),
    "so8t": N_("SO8T parameters"),
    "saved_activations": N_("Saved activations"),
    "working_set": N_("Working set at the peak"),
    "dequantised": N_("Dequantised weight of one layer"),
    "attention": N_("Attention mask and matrix"),
    "fragmentation": N_("Fragmentation reserve"),
    "context": N_("Driver context and libraries"),
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """Memory at the run's peak, estimated.

    Attributes:
        fits: `device_bytes` is within `budget_bytes`.
        peak_bytes: what PyTorch's allocator has handed out at the peak.
        peak_reserved_bytes: what the allocator holds at the peak, fragmentation included.
        low_bytes, high_bytes: the range that `device_bytes` may turn out to lie in.
        budget_bytes: the limit: ``memory.limit_gib`` or the card's size if that is less; on the CPU the
            system memory that is free now.
        terms: each thing that lives there; they add up to `device_bytes`.
        notes: sentences on what the estimate rests on.
        on_cpu: it concerns system memory, not a card.
        measured: what a probe of this configuration measured on this device; None without one.
    """

    fits: bool
    peak_bytes: int
    peak_reserved_bytes: int
    low_bytes: int
    high_bytes: int
    budget_bytes: int
    terms: dict[str, int]
    notes: tuple[str, ...] = ()
    on_cpu: bool = False
    measured: ProbeResult | None = None

    @property
    def source(self) -> str:
        """``measured`` where a probe decides `fits`, else ``estimated``."""
        return "estimated" if self.measured is None else "measured"

    @property
    def needed_bytes(self) -> int:
        """What decides whether the run fits: the probe's peak, or else the estimate."""
        return self.device_bytes if self.measured is None else self.measured.peak_bytes

    @property
    def device_bytes(self) -> int:
        """Everything of this run at the peak, with what lies outside PyTorch's allocator."""
        return sum(self.terms.values())

    @property
    def sentence(self) -> str:
        """The estimate in one line."""
        values = {
            "peak": gib(self.device_bytes),
            "low": gib(self.low_bytes),
            "high": gib(self.high_bytes),
            "limit": gib(self.budget_bytes),
        }
        if self.measured is not None:
            values["measured"] = gib(self.measured.peak_bytes)
            values["date"] = self.measured.measured_at[:10]
            return _("measured %(measured)s GiB on %(date)s (estimated %(peak)s) of %(limit)s GiB") % values
        if self.on_cpu:
            return _("estimated %(peak)s GiB (%(low)s–%(high)s) of %(limit)s GiB free system memory") % values
        return _("estimated %(peak)s GiB (%(low)s–%(high)s) of %(limit)s GiB") % values

    @property
    def reason(self) -> str:
        """Why the run does not fit; empty when it does."""
        if self.fits:
            return ""
        values = {
            "peak": gib(self.needed_bytes),
            "limit": gib(self.budget_bytes),
            "over": gib(self.needed_bytes - self.budget_bytes),
        }
        if self.measured is not None:
            return (
                _("A probe measured %(peak)s GiB, %(over)s GiB more than the limit of %(limit)s GiB.")
                % values
            )
        if self.on_cpu:
            return (
                _("The run needs an estimated %(peak)s GiB; %(limit)s GiB of system memory are free.")
                % values
            )
        return (
            _("The run needs an estimated %(peak)s GiB, %(over)s GiB more than the limit of %(limit)s GiB.")
            % values
        )

    def to_json(self) -> dict[str, Any]:
        """The fields of ``so8t estimate --json``."""
        return {
            "fits": self.fits,
            "peak_bytes": self.peak_bytes,
            "peak_reserved_bytes": self.peak_reserved_bytes,
            "device_bytes": self.device_bytes,
            "low_bytes": self.low_bytes,
            "high_bytes": self.high_bytes,
            "budget_bytes": self.budget_bytes,
            "terms": dict(self.terms),
            "source": self.source,
            "measured": None if self.measured is None else asdict(self.measured),
            "on_cpu": self.on_cpu,
            "notes": list(self.notes),
        }


def gib(count: int) -> str:
    """``count`` bytes in GiB with one decimal, two below 1 GiB."""
    value = count / GIB
    return f"{value:.2f}" if abs(value) < 1 else f"{value:.1f}"


def runs_on_cpu(config: Config) -> bool:
    """Whether the run will use the CPU: asked for, or no NVIDIA card answers."""
    return config.model.device == "cpu" or (config.model.device == "auto" and card_total() is None)


def compute_bytes(config: Config, *, cpu: bool) -> int:
    """Bytes a value of the compute type: ``auto`` is 16 bits on a card and 32 on the CPU."""
    kind = config.model.compute_dtype
    return 4 if kind == "fp32" or (kind == "auto" and cpu) else 2


#: On the CPU interpreter and libraries replace the driver's context: 0.52 GB resident after importing
#: torch, transformers, peft and bitsandbytes, to which the rows come. glibc's heap keeps much of what was
#: freed: a small Phi-3 (nf4, r 16, no checkpointing) peaked at 1.51, 3.03 and 5.72 GB resident for 1,536,
#: 4,096 and 8,192 tokens where 1.07 and 1.91 GB of the first two were alive.
_CPU = (
    replace(LOW, fragmentation=0.0, heap=0.1, context_bytes=500_000_000),
    replace(EXPECTED, fragmentation=0.0, heap=0.85, context_bytes=700_000_000),
    replace(HIGH, fragmentation=0.0, heap=1.1, context_bytes=1_200_000_000),
)


def _budget(config: Config, cpu: bool) -> int:
    if cpu:
        return int(psutil.virtual_memory().available)
    limit = int(config.memory.limit_gib * GIB)
    total = card_total()
    return limit if total is None else min(limit, total)


def _notes(config: Config, geometry: ModelGeometry, phase: str, cpu: bool) -> tuple[str, ...]:
    notes = [_("Estimated for rows that fill the whole sequence length, not measured.")]
    if phase == "loss":
        notes.append(_("The peak is in the loss, where logits of one chunk exist."))
    else:
        notes.append(_("The peak is in the backward pass of one layer."))
    if cpu:
        notes.append(_("The run uses the CPU: free system memory is what counts, not the card's limit."))
    elif card_total() is None:
        notes.append(_("No NVIDIA card answers here; this is an estimate for one with the limit given."))
    else:
        notes.append(_("The driver context differs from card to card by some 0.5 GB; the range includes it."))
    if config.model.quantization == "int8" and config.training.gradient_checkpointing:
        notes.append(_("int8 uses re-entrant checkpointing; the other kind would free nothing."))
    if not geometry.known_architecture:
        notes.append(
            _("The architecture %(name)s is not known; its layers are assumed to be Llama's.")
            % {"name": geometry.model_type or "?"}
        )
    if config.data.max_length > geometry.positions:
        notes.append(
            _("The sequence length is beyond the %(count)d tokens that the model was made for.")
            % {"count": geometry.positions}
        )
    return tuple(notes)


_PHASE_NAMES = {
    "loading": N_("loading"),
    "evaluation": N_("evaluation"),
    "step": N_("an optimizer step"),
    "save": N_("saving"),
}


def _measured_notes(measured: ProbeResult) -> tuple[str, ...]:
    notes = [
        _("Measured by a probe with rows of up to %(count)d tokens; the peak is in %(phase)s.")
        % {"count": measured.longest_row, "phase": _(_PHASE_NAMES[measured.peak_phase])}
    ]
    if not measured.rows_fill:
        notes.append(_("No row is as long as the sequence length; longer rows would need more."))
    return tuple(notes)


def estimate(config: Config) -> Estimate:
    """The memory that training with ``config`` will need.

    Raises:
        UnknownModelError: a Hub model of which nothing is on this computer; its size is unknown.
        ModelError: the model's folder or config.json cannot be used, or a LoRA target or a layer of
            the gate does not exist.
    """
    geometry = model_geometry(config.model.path, config.model.revision)
    cpu = runs_on_cpu(config)
    compute = compute_bytes(config, cpu=cpu)
    assumptions = _CPU if cpu else (LOW, EXPECTED, HIGH)
    (low, _p), (terms, phase), (high, _q) = (
        step_terms(config, geometry, assumed, cpu=cpu, compute=compute) for assumed in assumptions
    )
    paged = not cpu and config.training.optimizer.startswith("paged")
    reserved = sum(terms.values()) - terms["context"] - (terms["optimizer"] if paged else 0)
    budget = _budget(config, cpu)
    measured = find(memory_digest(config, geometry, "cpu" if cpu else card_name() or ""))
    needed = sum(terms.values()) if measured is None else measured.peak_bytes
    return Estimate(
        fits=needed <= budget,
        peak_bytes=reserved - terms["fragmentation"],
        peak_reserved_bytes=reserved,
        low_bytes=sum(low.values()),
        high_bytes=sum(high.values()),
        budget_bytes=budget,
        terms=terms,
        notes=_measured_notes(measured) if measured else _notes(config, geometry, phase, cpu),
        measured=measured,
        on_cpu=cpu,
    )
