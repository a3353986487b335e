"""What a training step needs whose layers are transformers' and peft's own, term by term. Bytes throughout.

Two moments can be the peak of a step: the loss (checkpoints of all layers, the adapter's tensors and one
chunk of logits) and the backward pass of one layer (checkpoints, that layer's recomputed activations and
its dequantised weight). Both hold the weights, gradients and optimizer state.

The byte counts per token follow the operations of transformers' Phi-3 layer with peft's LoRA under
autocast. Two constants are measured, not derived: `Assumptions.activation_factor` and
`Assumptions.fragmentation`.
"""

from __future__ import annotations

from dataclasses import dataclass

from so8t_engine.config import Config
from so8t_engine.memory.geometry import Linear, ModelGeometry
from so8t_engine.memory.terms import Phase, resident
from so8t_engine.so8t.placement import resolve_layers

MIB = 1024**2
F32 = 4


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What the configuration does not say.

    Attributes:
        residual_bytes: bytes a value of the residual stream, which is what checkpoints hold; None is the
            compute type's. 4 where norms or embedding were upcast.
        head_bytes: bytes a value of embedding and head; None is the compute type's.
        full_logits: the loss makes all logits at once rather than ``memory.loss_chunk`` tokens.
        adapter_copies: float32 copies of the final hidden states that the SO8T adapter and PET keep, with
            the gated ones.
        activation_factor: measured over derived activations.
        logit_bytes: of one logit, its log-softmax and its gradient.
        fragmentation: part of the short-lived tensors that the allocator holds in addition.
        heap: part of all activations that the C library's heap holds in addition; CPU runs only.
        context_bytes: driver context and libraries, outside the allocator.
    """

    residual_bytes: int | None = None
    head_bytes: int | None = None
    full_logits: bool = False
    adapter_copies: int = 7
    activation_factor: float = 1.1
    logit_bytes: int = 12
    fragmentation: float = 0.65
    heap: float = 0.0
    context_bytes: int = 970_000_000


#: Best guess for this program's trainer: residual stream and head in 16 bits, chunked loss.
#: Activations, copies and logits from the calibration half of tests/gpu/grid_results.jsonl.
EXPECTED = Assumptions(activation_factor=0.935, adapter_copies=3, logit_bytes=10)
#: Nothing goes wrong: tight allocator, small context.
LOW = Assumptions(
    activation_factor=0.9, adapter_copies=3, logit_bytes=10, fragmentation=0.3, context_bytes=450_000_000
)
#: The residual stream turns out to be float32, the allocator fragments more.
HIGH = Assumptions(residual_bytes=4, activation_factor=1.2, fragmentation=0.75, context_bytes=1_050_000_000)
ASSUMED_LEVELS = (LOW, EXPECTED, HIGH)
#: Where segments grow in place, so much of the activations is held in addition.
EXPANDABLE_PART = 0.025
#: transformers + peft after prepare_model_for_kbit_training, against which the formula was checked.
PLAIN = Assumptions(residual_bytes=4, head_bytes=4, full_logits=True, adapter_copies=0)


def weight_bytes(config: Config, geometry: ModelGeometry, compute: int) -> dict[str, int]:
    """The frozen model: quantised linear layers, their constants, embedding, head and norms.

    nf4: 4 bits a weight in blocks of 64, each with a float32 scale, or with double quantisation an 8-bit
    scale and one float32 per 256 scales (Dettmers et al. 2023, QLoRA, section 3). int8: 8 bits a weight
    and a float32 scale per output row (Dettmers et al. 2022, LLM.int8(), section 3).
    """
    count, kind = geometry.linear_parameters, config.model.quantization
    constants = 0
    if kind == "nf4":
        weights, blocks = count // 2, count // 64
        constants = blocks + blocks // 256 * F32 if config.model.double_quant else blocks * F32
    elif kind == "int8":
        weights = count
        constants = F32 * geometry.layers * sum(linear.outputs for linear in geometry.linears)
    else:
        weights = count * compute
    return {"weights": weights, "quantisation_constants": constants}


def trainable_parameters(config: Config, geometry: ModelGeometry) -> tuple[int, int]:
    """LoRA parameters, and SO8T's: θ_safe and θ_cmd (B×28 each), α, heads of 2, 4 and 2×2 rows."""
    targets = geometry.lora_targets(config.lora.targets)
    lora = geometry.layers * config.lora.r * sum(linear.inputs + linear.outputs for linear in targets)
    blocks = geometry.hidden // 8
    so8t = 2 * blocks * 28 + 1 + 10 * (geometry.hidden + 1)
    if config.so8t.rotation_map == "free":
        so8t += 2 * blocks * (64 - 28)
    return lora, so8t


def trainable_bytes(config: Config, lora: int, so8t: int, *, cpu: bool, compute: int) -> dict[str, int]:
    """float32 parameters and gradients; optimizer state of 8 bytes a parameter, or 2 with 8-bit AdamW.

    8-bit AdamW keeps two bytes and two float32 scales per 256 values; SO8T's small tensors stay at 32
    bits. Autocast holds a 16-bit copy of LoRA's weights during a step.
    """
    full = config.training.optimizer == "adamw"
    lora_state = lora * 2 * F32 if full else 2 * lora + 2 * F32 * (lora // 256 + 1)
    return {
        "lora": lora * F32 + (0 if cpu or compute == F32 else lora * compute),
        "gradients": (lora + so8t) * F32,
        "optimizer": lora_state + so8t * 2 * F32,
        "so8t": so8t * F32,
    }


def layer_activation_bytes(config: Config, geometry: ModelGeometry, compute: int, residual: int) -> int:
    """Activations that one decoder layer saves for its backward pass, per token.

    Two norms keep their input, its float32 copy and the normalised value; attention keeps q, k, v and its
    output; the gated MLP keeps both halves and the activation; each LoRA branch keeps its input after
    dropout and the dropout's mask.
    """
    targets: tuple[Linear, ...] = geometry.lora_targets(config.lora.targets)
    kept_input = compute + 1 if config.lora.dropout > 0 else compute
    norms = 2 * geometry.hidden * (residual + F32 + compute)
    attention = (geometry.qkv_features + geometry.heads * geometry.head_dim) * compute
    mlp = 3 * geometry.intermediate * compute
    branches = sum(linear.inputs * kept_input + config.lora.r * compute for linear in targets)
    return norms + attention + mlp + branches


def gated_layers(config: Config, geometry: ModelGeometry) -> int:
    """How many decoder layers hold a gate. Raises `ModelError` where one does not exist."""
    return len(resolve_layers(config.so8t.gate_layers, geometry.layers))


def gate_activation_bytes(geometry: ModelGeometry, compute: int) -> int:
    """What a gated layer saves in addition, per token: the linear's output before the gate.

    Without a gate nothing keeps that output, since the sum with the residual stream needs no operand for
    its backward pass. K, 8 values a hidden unit, is the same for all tokens and layers.
    """
    return geometry.hidden * compute


def attention_bytes(config: Config, geometry: ModelGeometry, compute: int) -> tuple[int, int]:
    """Quadratic parts: what one layer saves, and what exists once.

    sdpa saves none; padded batches carry one mask of (N, 1, T, T). eager saves the float32 and the
    compute-type probabilities of all heads.
    """
    rows, tokens = config.training.batch_size, config.data.max_length
    square = rows * tokens * tokens
    mask = square * compute if rows > 1 or config.model.attention == "eager" else 0
    if config.model.attention == "sdpa":
        return 0, mask
    return geometry.heads * square * (F32 + compute), mask + geometry.heads * square * F32


def logits_bytes(config: Config, geometry: ModelGeometry, assumed: Assumptions) -> int:
    """float32 logits, their log-softmax and their gradient, for one chunk or for all tokens."""
    tokens = config.training.batch_size * config.data.max_length
    full = assumed.full_logits or config.memory.loss_path == "full"
    at_once = tokens if full else min(config.memory.loss_chunk, tokens)
    return at_once * geometry.vocabulary * assumed.logit_bytes


def step_terms(
    config: Config, geometry: ModelGeometry, assumed: Assumptions, *, cpu: bool, compute: int
) -> tuple[dict[str, int], str]:
    """Every term at the moment of the peak, and which moment that is: ``loss`` or ``backward``.

    The terms add up to the whole; ``context`` and, when paged, ``optimizer`` lie outside the allocator.
    """
    tokens = config.training.batch_size * config.data.max_length
    residual = assumed.residual_bytes or compute
    head = assumed.head_bytes or compute
    lora, so8t = trainable_parameters(config, geometry)

    per_layer = layer_activation_bytes(config, geometry, compute, residual) * assumed.activation_factor
    saved_square, once_square = attention_bytes(config, geometry, compute)
    layer = int(tokens * per_layer) + saved_square
    gated = gated_layers(config, geometry)
    gate = tokens * gate_activation_bytes(geometry, compute)
    if config.training.gradient_checkpointing:
        # One layer at a time is recomputed; the widest is a gated one where there is any.
        saved, recomputed = (
            geometry.layers * tokens * geometry.hidden * residual,
            layer + min(gated, 1) * gate,
        )
    else:
        saved, recomputed = geometry.layers * layer + gated * gate, 0
    # Both halves of the MLP's gradient exist beside what the layer saved.
    backward = recomputed + tokens * 2 * geometry.intermediate * compute
    # Adapter, in float32: h, R_safe h, M h, h' and three second differences of PET.
    copies = max(assumed.adapter_copies - (0 if config.so8t.gate_final else 1), 0)
    adapter = tokens * geometry.hidden * copies * F32
    loss = logits_bytes(config, geometry, assumed) + adapter
    short_lived = max(backward, loss)

    widest = max(linear.parameters for linear in geometry.linears)
    quantised = config.model.quantization != "none"
    dequantised = widest * compute if quantised else 0
    # The allocator rounds to segments of 2 and 20 MiB and rarely refills a freed large block exactly.
    loose = assumed.fragmentation * short_lived + assumed.heap * (saved + short_lived)
    fragmentation = int(1.3 * dequantised + 16 * MIB + loose)
    terms = {
        **weight_bytes(config, geometry, compute),
        "embeddings": geometry.embedding_parameters * head + geometry.norm_parameters * F32,
        **trainable_bytes(config, lora, so8t, cpu=cpu, compute=compute),
        "saved_activations": saved,
        "working_set": short_lived,
        "dequantised": dequantised,
        "attention": once_square,
        "fragmentation": fragmentation,
        "context": assumed.context_bytes,
    }
    return terms, "loss" if loss > backward else "backward"


def plain_phases(
    config: Config,
    geometry: ModelGeometry,
    assumed: Assumptions,
    *,
    cpu: bool,
    compute: int,
    expandable: bool,
) -> dict[str, Phase]:
    """The step's highest moment; ``fragmentation`` is among the terms. Evaluations need less."""
    found, moment = step_terms(config, geometry, assumed, cpu=cpu, compute=compute)
    if cpu:
        found["fragmentation"] = 0
    elif expandable:
        loose = found["saved_activations"] + found["working_set"]
        found["fragmentation"] = int(24 * MIB + EXPANDABLE_PART * loose)
    del found["context"]
    always = resident(config, geometry, cpu=cpu, compute=compute)
    found |= {name: always.terms[name] for name in ("optimizer", "optimizer_paged", "lora")}
    short_lived = found["saved_activations"] + found["working_set"] if cpu else 0
    return {"step": Phase(moment, found, short_lived)}
