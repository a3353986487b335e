"""How much memory a run will need, said before it starts. Imports no torch; takes well under a millisecond.

`so8t_engine.memory.terms` holds the arithmetic and what it rests on. Where a probe has measured the same
configuration on this device, its figure decides, and the result says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from so8t_engine.config import Config
from so8t_engine.i18n import N_, _
from so8t_engine.memory.geometry import ModelGeometry, model_geometry
from so8t_engine.memory.lean_terms import runs_lean, waiting_bytes
from so8t_engine.memory.machine import Machine, crowds, free_system_memory, this_machine
from so8t_engine.memory.measured import ProbeResult, find_for
from so8t_engine.memory.needed import Needed, needed
from so8t_engine.memory.nvml import card_total
from so8t_engine.memory.spare import Spare, choose_spare, uncrowded, with_kept

GIB = 1024**3

#: What each term is called where a person reads it, in the order of a step.
TERM_TITLES: dict[str, str] = {
    "weights": N_("Frozen weights"),
    "quantisation_constants": N_("Quantisation constants"),
    "embeddings": N_("Embedding, head and norms"),
    "lora": N_("LoRA weights"),
    "gradients": N_("Gradients"),
    "optimizer": N_("Optimizer state"),
    "optimizer_paged": N_("Optimizer state, paged"),
    "so8t": N_("SO8T parameters"),
    "batch": N_("Tokens of a step"),
    "saved_activations": N_("Saved activations"),
    "working_set": N_("Working set at the peak"),
    "logits": N_("Logits and their gradient"),
    "dequantised": N_("Dequantised weights"),
    "attention": N_("Attention mask and matrix"),
    "fragmentation": N_("Fragmentation reserve"),
    "libraries": N_("Workspace of the libraries"),
    "context": N_("Driver context and libraries"),
}
#: Terms outside PyTorch's allocator.
OUTSIDE = ("optimizer_paged", "context")


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
        plain_bytes: reserved at the peak without corrections from earlier runs; on the CPU everything.
        beside_bytes: what other programs hold on the card, where that was taken into account.
        phases: phase → what the allocator reserves at its highest moment.
        spare: what ``memory.use_spare`` keeps, which all figures include; None where it is off.
        kept: the same as a sentence, one of `notes`; empty where nothing was chosen.
        waiting_bytes: of system memory, beside the card's, in which layers' tensors wait.
        waiting: the same as a sentence, one of `notes`; empty where nothing waits.
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
    plain_bytes: int = 0
    beside_bytes: int | None = None
    phases: dict[str, int] = field(default_factory=dict)
    spare: Spare | None = None
    kept: str = ""
    waiting_bytes: int = 0
    waiting: str = ""

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
            "beside_bytes": self.beside_bytes,
            "terms": dict(self.terms),
            "phases": dict(self.phases),
            "kept_layers": None if self.spare is None else self.spare.layers,
            "kept_weights": None if self.spare is None else self.spare.weights,
            "system_memory_bytes": self.waiting_bytes,
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


def _budget(config: Config, machine: Machine, cpu: bool, beside: int | None) -> int:
    if cpu:
        return free_system_memory()
    limit = int(config.memory.limit_gib * GIB)
    return limit if machine.total is None else min(limit, machine.total - (beside or 0))


def _notes(
    config: Config, geometry: ModelGeometry, found: Needed, machine: Machine, beside: int | None
) -> tuple[str, ...]:
    notes = [_("Estimated for rows that fill the whole sequence length, not measured.")]
    if found.moment in _MOMENTS:
        notes.append(_(_MOMENTS[found.moment]))
    if found.cpu:
        notes.append(_("The run uses the CPU: free system memory is what counts, not the card's limit."))
    elif machine.total is None:
        notes.append(_("No NVIDIA card answers here; this is an estimate for one with the limit given."))
    elif machine.calibration.context is None:
        notes.append(_("The driver context differs from card to card by some 0.5 GB; the range includes it."))
    if beside:
        notes.append(
            _("Other programs hold %(size)s GiB of the card; the limit leaves room for them.")
            % {"size": gib(beside)}
        )
    if machine.calibration.runs:
        notes.append(
            _("Corrected by what %(count)d finished runs on this device needed: %(percent)+.1f %%.")
            % {"count": machine.calibration.runs, "percent": 100 * (machine.calibration.factor - 1)}
        )
    if not runs_lean(config, geometry) and config.memory.layers == "lean":
        notes.append(_("This model's layers run as transformers wrote them, which needs more memory."))
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


_MOMENTS = {
    "loss": N_("The peak is in the loss, where logits of one chunk exist."),
    "forward": N_("The peak is in the forward pass of the last layers."),
    "backward": N_("The peak is in the backward pass of one layer."),
    "optimizer": N_("The peak is in the optimizer's step."),
    "evaluation": N_("The peak is in the evaluation."),
}

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


def _waiting(config: Config, geometry: ModelGeometry) -> tuple[int, str]:
    """System memory in which tensors wait, at most, and that as a sentence; 0 and nothing where none do."""
    everything, free = config.memory.offload_everything, free_system_memory()
    part = 0.0 if everything == "off" else uncrowded(config, geometry, free)
    size = waiting_bytes(config, geometry, part)
    if not size:
        return 0, ""
    values = {"size": gib(size), "free": gib(free)}
    if part and everything == "auto":
        return size, _(
            "Up to %(size)s GiB wait in system memory for the backward pass, as many as card and bus make "
            "worth while; %(free)s GiB are free."
        ) % values
    if 0 < part < 1:
        return size, _(
            "%(size)s GiB wait in system memory for the backward pass: of as many layers everything as half "
            "of the %(free)s GiB that are free holds."
        ) % values
    return size, _waiting_note(size, free, attention=config.memory.keep_attention)


def _waiting_note(count: int, free: int, *, attention: bool) -> str:
    values = {"size": gib(count), "free": gib(free)}
    if attention and crowds(count, free):
        return (
            _(
                "%(size)s GiB would wait in system memory, of which %(free)s GiB are free: with less than "
                "twice that, attention is computed again instead."
            )
            % values
        )
    return _("%(size)s GiB wait in system memory for the backward pass; %(free)s GiB are free.") % values


def spare_sentence(spare: Spare, layers: int) -> str:
    """What was chosen, for a person."""
    return _(
        "%(layers)d of %(all)d layers keep their activations, and weights of %(weights)d stay dequantised "
        "(chosen automatically for the memory that is left)."
    ) % {"layers": spare.layers, "weights": spare.weights, "all": layers}


def spare_for(
    config: Config, longest: int, lengths: Sequence[int], *, beside: int | None = None, less: int = 0
) -> Spare:
    """What a run of ``config`` keeps, once its rows are known.

    Args:
        longest: tokens of the longest row, held-out ones included.
        lengths: that rows of a pass may have.
        beside: bytes that other programs hold on the card. less: bytes of the budget to leave alone.

    Raises:
        ModelError: as `estimate` does.
    """
    geometry, cpu = model_geometry(config.model.path, config.model.revision), runs_on_cpu(config)
    where = this_machine(cpu)
    if not config.training.packing:
        data = config.data.model_copy(update={"max_length": min(config.data.max_length, longest)})
        config = config.model_copy(update={"data": data})
    return choose_spare(
        config, geometry, where, cpu=cpu, compute=compute_bytes(config, cpu=cpu),
        budget=_budget(config, where, cpu, beside) - less, lengths=lengths,
    )  # fmt: skip


def estimate(config: Config, machine: Machine | None = None, beside: int | None = None) -> Estimate:
    """The memory that training with ``config`` will need.

    Args:
        machine: where it will run; None is this one.
        beside: bytes that other programs hold on the card and will go on holding; None is not known.

    Raises:
        UnknownModelError: a Hub model of which nothing is on this computer; its size is unknown.
        ModelError: the model's folder or config.json cannot be used, or a LoRA target or a layer of
            the gate does not exist.
    """
    geometry = model_geometry(config.model.path, config.model.revision)
    cpu = runs_on_cpu(config) if machine is None else config.model.device == "cpu"
    where = machine or this_machine(cpu)
    compute = compute_bytes(config, cpu=cpu)
    budget = _budget(config, where, cpu, beside)
    measured = find_for(config, geometry, "cpu" if cpu else where.card)
    spare: Spare | None = None
    if config.memory.use_spare:
        spare = choose_spare(config, geometry, where, cpu=cpu, compute=compute, budget=budget)
        config = with_kept(config, spare.layers, spare.weights)
    low, found, high = needed(config, geometry, where, cpu=cpu, compute=compute)
    terms = {name: found.terms.get(name, 0) for name in TERM_TITLES}
    reserved = sum(size for name, size in terms.items() if name not in OUTSIDE)
    notes = _measured_notes(measured) if measured else _notes(config, geometry, found, where, beside)
    kept = ""
    # Beyond the limit nothing was chosen, and what is kept then is what a person asked for.
    if spare is not None and spare.high_bytes <= budget and (spare.layers or spare.weights):
        kept = spare_sentence(spare, geometry.layers)
        notes = (*notes, kept)
    waiting_for, waiting = (0, "") if cpu else _waiting(config, geometry)
    if waiting:
        notes = (*notes, waiting)
    total = sum(terms.values())
    return Estimate(
        fits=(total if measured is None else measured.peak_bytes) <= budget,
        peak_bytes=reserved - terms["fragmentation"],
        peak_reserved_bytes=reserved,
        plain_bytes=found.plain,
        low_bytes=min(low, total),
        high_bytes=max(high, total),
        budget_bytes=budget,
        beside_bytes=None if cpu else beside,
        terms=terms,
        phases=found.phases,
        notes=notes,
        waiting_bytes=waiting_for,
        waiting=waiting,
        measured=measured,
        on_cpu=cpu,
        spare=spare,
        kept=kept,
    )
