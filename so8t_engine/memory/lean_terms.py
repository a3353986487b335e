"""A configuration with lean layers as terms: what always lives there, and each phase's highest moment."""

from __future__ import annotations

from dataclasses import replace

from so8t_engine.config import Config
from so8t_engine.memory.families import LEAN_TYPES
from so8t_engine.memory.geometry import Linear, ModelGeometry
from so8t_engine.memory.lean_layers import WEIGHT, LayerShape, LinearShape
from so8t_engine.memory.lean_step import StepShape, evaluation_moment, host_bytes, training_moment
from so8t_engine.memory.tape import rounded
from so8t_engine.memory.terms import F32, Phase, resident
from so8t_engine.so8t.placement import resolve_layers

#: Tokens that an evaluation batch holds at least (`Prepared.max_evaluation_tokens`).
EVALUATION_TOKENS = 2048


def runs_lean(config: Config, geometry: ModelGeometry) -> bool:
    """Whether this run's layers are the lean ones; the same reasons as `model.lean.body.why_not_lean`."""
    window = geometry.sliding_window
    return (
        config.memory.layers == "lean"
        and geometry.model_type in LEAN_TYPES
        and config.model.attention == "sdpa"
        and (window is None or window >= config.data.max_length)
    )


def may_record(config: Config) -> bool:
    """Whether passes may be recorded on a card (`so8t_engine.training.recorded`): gradients stay then."""
    return config.training.recorded_passes != "off"


def _linear(config: Config, linear: Linear, adapted: set[str]) -> LinearShape:
    rank = config.lora.r if linear.name in adapted else 0
    return LinearShape(linear.name, linear.inputs, linear.outputs, rank, config.model.quantization)


def kept_weights(config: Config, geometry: ModelGeometry) -> int:
    """Layers whose weights stay dequantised; none where they are not quantised."""
    quantised = config.model.quantization != "none"
    return min(config.memory.kept_weights, geometry.layers) if quantised else 0


def step_shape(config: Config, geometry: ModelGeometry, *, compute: int, flash: bool) -> StepShape:
    """A micro-batch of rows that fill the sequence length."""
    adapted = {linear.name for linear in geometry.lora_targets(config.lora.targets)}
    linears = [_linear(config, linear, adapted) for linear in geometry.linears]
    before = next(place for place, linear in enumerate(linears) if linear.name == "o_proj")
    rows, tokens = config.training.batch_size, config.data.max_length
    if config.training.packing:  # one sequence of whole rows
        rows, tokens = 1, rows * tokens
    layer = LayerShape(
        rows=rows, tokens=tokens, tile=config.memory.mlp_tile, hidden=geometry.hidden,
        heads=geometry.heads, kv_heads=geometry.kv_heads, head_dim=geometry.head_dim,
        projections=tuple(linears[:before]), output=linears[before],
        expand=tuple(linears[before + 1 : -1]), contract=linears[-1],
        width=compute, dropout=config.lora.dropout > 0, flash=flash,
    )  # fmt: skip
    gradients = sum(linear.rank * (linear.inputs + linear.outputs) * F32 for linear in linears)
    return StepShape(
        layer=layer, layers=geometry.layers,
        gated=frozenset(resolve_layers(config.so8t.gate_layers, geometry.layers)),
        site=config.so8t.gate_site, recomputed=config.training.gradient_checkpointing,
        first_kept=max(geometry.layers - config.memory.kept_layers, 0),
        offload=config.memory.offload_activations and flash,
        vocabulary=geometry.vocabulary,
        chunk=config.memory.loss_chunk if config.memory.loss_path == "chunked" else 2**31,
        gate_final=config.so8t.gate_final,
        accumulated=config.training.accumulation > 1 or (flash and may_record(config)),
        lora_per_layer=gradients, whole=kept_weights(config, geometry),
        keep_attention=config.memory.keep_attention and config.training.gradient_checkpointing,
        everything=float(config.memory.offload_everything != "off"),
    )  # fmt: skip


def waiting_bytes(config: Config, geometry: ModelGeometry, everything: float | None = None) -> int:
    """System memory in which layers' tensors wait for the backward pass of a run on a card.

    Args:
        everything: the part of the layers all of which waits; None is all or none, as ``config`` says.

    Raises:
        ModelError: as `lean_phases` does.
    """
    if not config.memory.offload_activations or not runs_lean(config, geometry):
        return 0
    width = 4 if config.model.compute_dtype == "fp32" else 2
    shape = step_shape(config, geometry, compute=width, flash=True)
    return host_bytes(shape if everything is None else replace(shape, everything=everything))


def lean_phases(config: Config, geometry: ModelGeometry, *, cpu: bool, compute: int) -> dict[str, Phase]:
    """Each phase's highest moment.

    Raises:
        ModelError: a LoRA target or a layer of the gate does not exist.
    """
    if cpu and config.model.quantization == "nf4":  # dequantised once, at loading
        config = config.model_copy(update={"model": config.model.model_copy(update={"quantization": "none"})})
    always = resident(config, geometry, cpu=cpu, compute=compute)
    shape = step_shape(config, geometry, compute=compute, flash=not cpu)
    base = dict(always.terms)
    base[WEIGHT] = shape.whole * sum(rounded(linear.parameters * compute) for linear in geometry.linears)
    count = shape.layer.count
    # Every micro-batch of a step is on the device: tokens, labels and mask.
    base["batch"] = config.training.accumulation * 3 * rounded(count * 8)
    phases = {}
    moment = training_moment(shape)
    if config.memory.offload_everything == "auto" and shape.offload:  # the run decides
        less = training_moment(replace(shape, everything=0.0))
        moment = max(moment, less, key=lambda one: one.bytes)
    held = always.gradients if shape.accumulated else 0
    # Gradients that are made anew with each step, and the optimizer's roots.
    apart = (0 if cpu or shape.accumulated else always.small_gradients) + (0 if cpu else always.small_update)
    phases["step"] = replace(_phase(moment.name, base, moment.terms, held, moment.kept), apart=apart)
    update = always.gradients + always.update
    if sum(base.values()) + update > phases["step"].bytes:
        phases["step"] = _phase("optimizer", base, {"gradients": always.update}, always.gradients)
    tokens = max(EVALUATION_TOKENS, config.training.batch_size * config.data.max_length)
    rows = max(1, tokens // config.data.max_length)
    layer = replace(shape.layer, rows=rows, tokens=config.data.max_length)
    moment = evaluation_moment(replace(shape, layer=layer))
    own = dict(base, batch=3 * rounded(layer.count * 8))
    phases["evaluation"] = _phase(moment.name, own, moment.terms, 0)
    phases["save"] = _phase("save", own, {}, 0)
    return phases


def _phase(name: str, base: dict[str, int], terms: dict[str, int], gradients: int, kept: int = 0) -> Phase:
    whole = dict(base)
    for term, size in terms.items():
        whole[term] = whole.get(term, 0) + size
    whole["gradients"] = whole.get("gradients", 0) + gradients
    return Phase(name, whole, sum(terms.values()), kept)
