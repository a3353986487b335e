"""What lives in memory from loading to the end of a run, whatever the layers do. Bytes throughout.

Weights as bitsandbytes stores them, LoRA and SO8T parameters with their gradients, the optimizer's state.
"""

from __future__ import annotations

from dataclasses import dataclass

from so8t_engine.config import Config
from so8t_engine.memory.geometry import ModelGeometry
from so8t_engine.memory.tape import rounded

MIB = 1024**2
F32 = 4
#: PyTorch's caching allocator serves requests up to this size from segments of their own (kSmallSize).
SMALL = MIB
#: bitsandbytes keeps the state of smaller tensors in 32 bits, and pages that of larger ones (optimizer.py).
MIN_8BIT, MIN_PAGED = 4096, 100_000


@dataclass(frozen=True, slots=True)
class Resident:
    """What is always there.

    Attributes:
        terms: by name; ``optimizer_paged`` lies outside the allocator.
        gradients: float32 gradients of everything that learns, which exist between two passes.
        update: what the optimizer needs besides for a moment.
        small_gradients, small_update: their part in tensors of at most `SMALL` bytes, for which the allocator
            keeps segments apart: they take no room that larger tensors left.
    """

    terms: dict[str, int]
    gradients: int
    update: int
    small_gradients: int
    small_update: int


@dataclass(frozen=True, slots=True)
class Phase:
    """What the allocator has handed out at a phase's highest moment.

    Attributes:
        moment: where in the phase that is. terms: they add up to `bytes`.
        short_lived: the part that comes and goes within a step. kept: activations that are not recomputed.
        apart: small tensors of other moments, whose segments are there all the same.
    """

    moment: str
    terms: dict[str, int]
    short_lived: int
    kept: int = 0
    apart: int = 0

    @property
    def bytes(self) -> int:
        return sum(self.terms.values())


def weight_terms(config: Config, geometry: ModelGeometry, compute: int) -> dict[str, int]:
    """The frozen model: quantised linear layers, their constants, embedding, head, norms and biases.

    nf4: 4 bits a weight in blocks of 64, each with a float32 scale, or with double quantisation an 8-bit
    scale and one float32 per 256 scales (Dettmers et al. 2023, QLoRA, section 3), and tables of 16 and 256
    values. int8: 8 bits a weight and a float32 scale per output row (Dettmers et al. 2022, LLM.int8(),
    section 3).
    """
    weights = constants = 0
    for linear in geometry.linears:
        count = linear.parameters
        if config.model.quantization == "nf4":
            weights += rounded(count / 2)
            scales = count // 64
            constants += rounded(16 * F32)
            if config.model.double_quant:
                constants += rounded(scales) + rounded(scales / 256 * F32) + rounded(256 * F32) + rounded(F32)
            else:
                constants += rounded(scales * F32)
        elif config.model.quantization == "int8":
            weights += rounded(count)
            constants += rounded(linear.outputs * F32)
        else:
            weights += rounded(count * compute)
    heads = 1 if geometry.tied else 2
    return {
        "weights": geometry.layers * weights,
        "quantisation_constants": geometry.layers * constants,
        "embeddings": heads * rounded(geometry.vocabulary * geometry.hidden * compute)
        + geometry.norm_parameters * compute,
    }


def adapter_sizes(config: Config, geometry: ModelGeometry) -> list[int]:
    """Numbers of elements of one layer's LoRA matrices, A and B of each target."""
    rank = config.lora.r
    targets = geometry.lora_targets(config.lora.targets)
    return [rank * size for linear in targets for size in (linear.inputs, linear.outputs)]


def so8t_sizes(config: Config, geometry: ModelGeometry) -> list[int]:
    """θ_safe and θ_cmd (B×28 each, 64 with the free map), α, and heads of 2, 4 and 2×2 rows."""
    each = geometry.hidden // 8 * (64 if config.so8t.rotation_map == "free" else 28)
    heads = [size for rows in (2, 4, 2, 2) for size in (rows * geometry.hidden, rows)]
    return [each, each, 1, *heads]


def _state(config: Config, size: int, *, cpu: bool) -> tuple[int, int]:
    """Bytes of one LoRA matrix' optimizer state: in the allocator, and paged."""
    kind = config.training.optimizer
    if kind == "adamw" or size < MIN_8BIT:
        return 2 * rounded(size * F32), 0
    moments, scales = 2 * rounded(size), 2 * rounded(-(-size // 256) * F32)
    if kind == "paged_adamw_8bit" and not cpu and size >= MIN_PAGED:
        return scales, moments
    return moments + scales, 0


def resident(config: Config, geometry: ModelGeometry, *, cpu: bool, compute: int) -> Resident:
    """Everything that is there from the second step on. Raises `ModelError` for an unknown target."""
    adapters, own = adapter_sizes(config, geometry), so8t_sizes(config, geometry)
    lora = geometry.layers * sum(rounded(size * F32) for size in adapters)
    so8t = sum(rounded(size * F32) for size in own)
    states = [_state(config, size, cpu=cpu) for size in adapters]
    in_allocator = geometry.layers * sum(held for held, _paged in states) + 2 * so8t
    terms = {
        **weight_terms(config, geometry, compute),
        "lora": lora,
        "optimizer": in_allocator,
        "optimizer_paged": geometry.layers * sum(paged for _held, paged in states),
        "so8t": so8t,
    }
    # torch's AdamW takes the root of all second moments of a group at once.
    roots = config.training.optimizer == "adamw"
    small = geometry.layers * sum(rounded(size * F32) for size in adapters if size * F32 <= SMALL)
    # 8-bit moments that stay on the card are made one by one between a step's activations: measured, the
    # allocator holds a seventh of them in addition.
    eighth = config.training.optimizer == "adamw_8bit"
    between = small if roots else terms["optimizer"] // 7 if eighth else 0
    return Resident(terms, lora + so8t, lora if roots else 0, small + so8t, between)
