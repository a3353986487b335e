"""Which linear layers get a LoRA adapter, resolved against the architecture that was really loaded.

Tools that match names as given train only ``o_proj`` and ``down_proj`` of Phi-3 when asked for the usual
seven names, because its q, k, v and gate, up projections are fused, and say nothing. Here every
requested name must reach a module.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from so8t_engine.errors import ModelError
from so8t_engine.i18n import _

#: A name that people ask for → the fused module that holds it, where the architecture fuses it.
FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}


def linear_modules(model: nn.Module, *, without: Sequence[str] = ("lm_head",)) -> dict[str, nn.Module]:
    """Dotted name → module of each linear layer (quantised ones too), the LM head left out."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in without
    }


def resolve_targets(model: nn.Module, requested: Sequence[str]) -> list[str]:
    """Full dotted names of the modules that get an adapter, in the model's order.

    Args:
        model: the loaded base model.
        requested: last parts of names (``q_proj``), full dotted names, or ``all-linear``.

    Raises:
        ModelError: a requested name reaches no module; the sentence lists what exists.
    """
    linear = linear_modules(model)
    available = sorted({name.rpartition(".")[2] for name in linear})
    if list(requested) == ["all-linear"]:
        return list(linear)
    chosen: set[str] = set()
    for wanted in requested:
        name = wanted if wanted in available or wanted in linear else FUSED.get(wanted, wanted)
        found = [full for full in linear if full == name or full.rpartition(".")[2] == name]
        if not found:
            raise ModelError(
                _("LoRA target '%(name)s' matches no linear layer of this model.") % {"name": wanted},
                _("This model has: %(names)s.") % {"names": ", ".join(available)},
            )
        chosen.update(found)
    return [name for name in linear if name in chosen]
