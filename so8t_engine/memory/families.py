"""What each decoder architecture of transformers has beside its linear weights. From its modelling files.

`geometry_from_config` reads a model's sizes from its ``config.json``; this table says which layers those
sizes make, and which values a file may leave out because they are the architecture's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture.

    Attributes:
        fused_qkv, fused_mlp: ``qkv_proj`` and ``gate_up_proj`` hold what others keep in several layers.
        gated: the MLP multiplies two projections; otherwise it has one, called ``names[0]``.
        names: of the MLP's layers that are not gated: into it and out of it.
        norms: norms of a decoder layer, each with ``hidden`` weights (twice with ``norm_bias``).
        final_norm: whether the last norm has weights.
        head_norm: norms of queries and keys: over one head, over all, or none.
        query_bias, output_bias, mlp_bias: a setting's name, or a fixed answer.
        defaults: of ``config.json``, where published files leave them out.
    """

    fused_qkv: bool = False
    fused_mlp: bool = False
    gated: bool = True
    names: tuple[str, str] = ("up_proj", "down_proj")
    norms: int = 2
    norm_bias: bool = False
    final_norm: bool = True
    head_norm: Literal["none", "head", "all"] = "none"
    query_bias: str | bool = "attention_bias"
    output_bias: str | bool = "attention_bias"
    mlp_bias: str | bool = "mlp_bias"
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GEMMA = {"tie_word_embeddings": True, "head_dim": 256}
_GEMMA2 = {**_GEMMA, "num_key_value_heads": 4, "num_attention_heads": 8, "vocab_size": 256000}
_BIASED = {"attention_bias": True}

FAMILIES: dict[str, Family] = {
    "phi3": Family(fused_qkv=True, fused_mlp=True, query_bias=False, output_bias=False, mlp_bias=False),
    "llama": Family(),
    "mistral": Family(defaults={"num_key_value_heads": 8}),
    "ministral": Family(),
    "ministral3": Family(),
    "qwen2": Family(query_bias=True, output_bias=False, mlp_bias=False),
    "qwen3": Family(head_norm="head", mlp_bias=False, defaults={"head_dim": 128}),
    "gemma": Family(mlp_bias=False, defaults=_GEMMA),
    "gemma2": Family(norms=4, mlp_bias=False, defaults=_GEMMA2),
    "gemma3_text": Family(
        norms=4, head_norm="head", mlp_bias=False, defaults={**_GEMMA2, "vocab_size": 262208}
    ),
    "vaultgemma": Family(mlp_bias=False, defaults=_GEMMA2),
    "smollm3": Family(defaults={"tie_word_embeddings": True}),
    "olmo": Family(norms=0, final_norm=False, mlp_bias=False),
    "olmo2": Family(head_norm="all", mlp_bias=False),
    "olmo3": Family(head_norm="all", mlp_bias=False),
    "granite": Family(),
    "cohere": Family(norms=1, mlp_bias=False, defaults={"tie_word_embeddings": True}),
    "cohere2": Family(norms=1, mlp_bias=False, defaults={"tie_word_embeddings": True, "head_dim": 128}),
    "starcoder2": Family(
        gated=False, names=("c_fc", "c_proj"), norm_bias=True, query_bias="use_bias",
        output_bias="use_bias", mlp_bias="use_bias",
        defaults={"tie_word_embeddings": True, "use_bias": True},
    ),
    "glm": Family(fused_mlp=True, output_bias=False, mlp_bias=False, defaults=_BIASED),
    "glm4": Family(fused_mlp=True, norms=4, output_bias=False, mlp_bias=False, defaults=_BIASED),
    "exaone4": Family(head_norm="head", query_bias=False, output_bias=False, mlp_bias=False),
    "ernie4_5": Family(
        query_bias="use_bias", output_bias="use_bias", mlp_bias="use_bias",
        defaults={"tie_word_embeddings": True},
    ),
    "arcee": Family(gated=False),
    "nemotron": Family(gated=False, norm_bias=True),
    "seed_oss": Family(output_bias="attention_out_bias", defaults=_BIASED),
    "hunyuan_v1_dense": Family(head_norm="head", mlp_bias=False),
    "cwm": Family(query_bias=False, output_bias=False, mlp_bias=False),
}  # fmt: skip

#: Architectures that `so8t_engine.model.lean` runs.
LEAN_TYPES = frozenset({"phi3", "llama", "mistral", "qwen2"})

#: What is assumed of an architecture that is not in the table: Llama's layers.
ASSUMED = Family()


def family_of(model_type: str) -> Family:
    """The architecture called so in ``config.json``, or `ASSUMED`."""
    return FAMILIES.get(model_type, ASSUMED)
