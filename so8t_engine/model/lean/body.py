"""The decoder of a transformers model run by layers that keep little memory.

Weights, LoRA and configuration stay in transformers' and peft's own modules; this runs them another way. What
is saved, layer by layer, is the layer's input, on the card or on the host (`Recomputed`); quantised weights
are dequantised for the moment of use; the MLP is computed tile by tile; nothing is upcast as a whole.
Which models can be run so, `lean_body` says; the others run as transformers wrote them.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from so8t_engine.i18n import _
from so8t_engine.memory.lean_waiting import AHEAD, LEAVING, evenly
from so8t_engine.model.lean.attention import Attention, Norm
from so8t_engine.model.lean.dropout import Seed, on_card
from so8t_engine.model.lean.layer import DecoderLayer, Recomputed, Scene
from so8t_engine.model.lean.linear import LoraLinear
from so8t_engine.model.lean.mlp import GatedMLP
from so8t_engine.model.lean.offload import Offload
from so8t_engine.model.lean.ops import Activation, rms_norm, rms_norm_gradient
from so8t_engine.model.lean.selected import (
    HIDDEN,
    MIDDLE,
    MIXED,
    Selected,
    part_name,
    sums_name,
    tile_name,
)
from so8t_engine.model.packed import PackedRows, takes_varlen
from so8t_engine.so8t.placement import Placement

log = logging.getLogger(__name__)

#: transformers' ``model_type`` → whether its q/k/v and gate/up are fused.
KNOWN_TYPES = {"phi3": True, "llama": False, "mistral": False, "qwen2": False}
_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh", "gelu_new": "gelu_tanh",
}  # fmt: skip


class LeanBody:
    """Runs the decoder of ``causal_lm``; holds no parameters of its own.

    Args:
        causal_lm: a model of `KNOWN_TYPES` with LoRA injected by peft.
        placement: where the gate acts.
        tile: tokens of the MLP at a time.
        recomputed: keep layers' inputs alone while training.
        kept_layers: so many of the last layers keep their activations all the same.
        kept_weights: so many of the first layers hold their quantised weights dequantised.
        offload: keep those inputs in host memory, where the model is on a card.
        keep_attention: with those inputs keep what the attention made (`Selected`).
        everything: `everything`.
    """

    def __init__(
        self,
        causal_lm: Any,  # noqa: ANN401
        placement: Placement,
        *,
        tile: int,
        recomputed: bool,
        kept_layers: int = 0,
        kept_weights: int = 0,
        offload: bool = False,
        keep_attention: bool = False,
        everything: float = 0.0,
    ) -> None:
        self._decoder = causal_lm.get_decoder()
        config = causal_lm.config
        gated = set(placement.layers)
        self.layers = [
            _layer(module, config, tile, placement.site if index in gated else None)
            for index, module in enumerate(self._decoder.layers)
        ]
        self.norm = _norm(self._decoder.norm)
        self.recomputed, self.kept_layers = recomputed, kept_layers
        #: Attention's results are kept, where no gate acts on them.
        self.keep_attention = keep_attention
        self._everything = everything
        self._offload: Offload | None = None
        if offload:
            self.start_offload()
        #: (longest row, layers that keep their activations then) for shorter passes, the shortest first.
        self.kept_shorter: tuple[tuple[int, int], ...] = ()
        self._kept_weights = 0
        if kept_weights:
            self.kept_weights = kept_weights
        #: Dropout is drawn by a kernel that reads its seed on the card.
        self.seeds_on_card = False
        #: (length, dtype), cosines and sines of the last pass.
        self.angles: tuple[tuple[int, torch.dtype], Tensor, Tensor] | None = None

    @property
    def offloads(self) -> bool:
        """Whether layers' inputs wait on the host."""
        return self._offload is not None

    @property
    def dtype(self) -> torch.dtype:
        """Of the hidden states."""
        found: torch.dtype = self._decoder.embed_tokens.weight.dtype
        return found

    @property
    def everything(self) -> float:
        """The part of the layers, spread evenly, of which all that the backward pass reads waits on the host.

        Of those that keep their input alone and wait there at all.
        """
        return self._everything

    @everything.setter
    def everything(self, share: float) -> None:
        changed, self._everything = share != self._everything, share
        if changed and self._offload is not None:  # what it has reserved is of other sizes
            self._offload = None
            self.start_offload()

    def start_offload(self) -> bool:
        """Keep layers' inputs on the host from the next pass on; False on the CPU, where there is no host."""
        device = self._decoder.embed_tokens.weight.device
        if self._offload is None and device.type == "cuda":
            self._offload = Offload(
                device,
                leaving=LEAVING if self.keep_attention or self._everything else 1,
                ahead=AHEAD if self._everything else None,
            )
        return self.offloads

    def kept_at(self, length: int) -> int:
        """Layers that keep their activations in a pass whose rows have so many tokens."""
        more = (layers for longest, layers in self.kept_shorter if length <= longest)
        return next(more, self.kept_layers)

    @property
    def kept_weights(self) -> int:
        """So many of the first layers hold their quantised weights dequantised."""
        return self._kept_weights

    @kept_weights.setter
    def kept_weights(self, count: int) -> None:
        self._kept_weights = count = max(0, min(count, len(self.layers)))
        # What is given up is free before anything new is made.
        self.layers = [layer.keeping_weights(None) for layer in self.layers]
        for index in range(count):
            self.layers[index] = self.layers[index].keeping_weights(self.dtype)

    def reserve_host(self, rows: int, tokens: int, longest: int, dtype: torch.dtype) -> list[Tensor]:
        """The buffers in which a pass of so many rows and tokens will wait; none without offloading.

        Args:
            longest: no pass has longer rows: there is room for that at once.
        """
        if self._offload is None or not self.recomputed:
            return []
        # All that are recomputed but the last, which is needed again at once.
        count = max(len(self.layers) - self.kept_at(tokens) - 1, 0)
        room = max(tokens, longest)
        return self._offload.reserve(
            [
                self._waiting(self.layers[index], rows, room, dtype, whole=self._whole(index))
                for index in range(count)
            ]
        )

    def leaving_bytes(self, tokens: int) -> int:
        """Bytes that leave the card where all of a layer without a gate waits, of a row of so many tokens."""
        layer = replace(self.layers[0], site=None)
        named = self._waiting(layer, 1, tokens, self.dtype, whole=True)
        return sum(elements * kind.itemsize for elements, kind in named.values())

    def _whole(self, index: int) -> bool:
        """Whether all of this layer waits on the host, if it waits."""
        return self.layers[index].site != "attention" and evenly(index, self._everything, len(self.layers))

    def _waiting(
        self, layer: DecoderLayer, rows: int, tokens: int, dtype: torch.dtype, *, whole: bool
    ) -> dict[str, tuple[int, torch.dtype]]:
        """Name → (elements, dtype) of what a layer pushes, in this order."""
        block, count = layer.attention, rows * tokens
        states = count * block.norm.weight_H.numel(), dtype
        named = {HIDDEN: states}
        if not (whole or self._selects(layer)):
            return named
        # A kernel may round the tokens of its sums up.
        named[sums_name(0)] = rows * block.heads * -(-tokens // 128) * 128, torch.float32
        if whole:
            for number, linear in enumerate(block.projections):
                named[part_name(number)] = count * linear.outputs, dtype
        named[MIXED] = count * block.heads * block.size, dtype
        if whole and layer.site != "mlp":
            starts = range(0, count, layer.mlp.tile)
            for tile, start in reversed(list(enumerate(starts))):
                size = min(layer.mlp.tile, count - start)
                for number, linear in enumerate(layer.mlp.expand):
                    named[tile_name(tile, number)] = size * linear.outputs, dtype
        named[MIDDLE] = states
        return named

    def _selects(self, layer: DecoderLayer) -> bool:
        return self.keep_attention and layer.site != "attention"

    @property
    def tile(self) -> int:
        """Tokens of the MLP at a time."""
        return self.layers[0].mlp.tile

    @tile.setter
    def tile(self, tokens: int) -> None:
        self.layers = [replace(layer, mlp=replace(layer.mlp, tile=tokens)) for layer in self.layers]

    def forward(
        self,
        input_ids_NT: Tensor,
        *,
        training: bool,
        matrix_B88: Tensor | None = None,
        g: Tensor | None = None,
        packed: PackedRows | None = None,
        seeds_L: Tensor | None = None,
    ) -> Tensor:
        """The final hidden states after the last norm, (N, T, H).

        Args:
            training: draw dropout and prepare a backward pass.
            matrix_B88: the gate's K where layers are gated. g: its strength.
            packed: where rows lie end to end; None is a batch with padding on the right.
            seeds_L: of the layers' dropout, on a card; drawn here when None.
        """
        embed, kept = self._decoder.embed_tokens, self.kept_at(input_ids_NT.shape[1])
        with torch.autocast(input_ids_NT.device.type, enabled=False):
            hidden_NTH: Tensor = embed(input_ids_NT)
            scene = Scene(*self._rotary(hidden_NTH, packed), packed, g)
            if packed is not None:
                # The answer is found by attending to a few tokens: a layer that keeps what its attention's
                # kernels return would keep what those return.
                self.packed_in_one(hidden_NTH.dtype)
            grad = training and torch.is_grad_enabled()
            seeds: list[Seed] | None = None
            if training:
                if seeds_L is None:
                    # From the CPU's generator: no wait for the card, and a resumed run draws the same.
                    seeds_L = torch.randint(2**62, (len(self.layers),))
                on = self.seeds_on_card
                seeds = on_card(seeds_L.to(hidden_NTH.device)) if on else list(seeds_L.tolist())
            if grad:
                # The embedding is frozen: without this a first layer of which the input alone is kept would
                # not be asked back, since its LoRA is no input of `Recomputed`.
                if self.recomputed and kept < len(self.layers):
                    hidden_NTH = hidden_NTH.requires_grad_()
                if self._offload is not None:
                    self._offload.begin()
            first_kept = len(self.layers) - kept
            for index, layer in enumerate(self.layers):
                seed = None if seeds is None else seeds[index]
                own = matrix_B88 if layer.site is not None else None
                if grad and self.recomputed and index < first_kept:
                    # The last one is needed again at once.
                    store = None if index == first_kept - 1 else self._offload
                    whole = store is not None and self._whole(index)
                    selected = self._selects(layer) and (store is not None or self._offload is None)
                    arguments = (hidden_NTH, own, layer, scene, seed, store)
                    if whole or selected:
                        hidden_NTH = Selected.apply(*arguments, whole)  # type: ignore[no-untyped-call]
                    else:
                        hidden_NTH = Recomputed.apply(*arguments)  # type: ignore[no-untyped-call]
                    if store is None and self._offload is not None:
                        self._offload.settle()  # a whole layer's time was enough
                else:
                    hidden_NTH = layer.forward(hidden_NTH, own, scene, seed, keep=grad)
            final_NTH: Tensor = _FinalNorm.apply(hidden_NTH, self.norm)  # type: ignore[no-untyped-call]
            return final_NTH

    def angles_grow(self, length: int, like: Tensor) -> bool:
        """Whether the same position has other angles in rows of ``length`` tokens than in short ones."""
        short, long = self.angles_for(2, like), self.angles_for(max(length, 2), like)
        return not all(torch.allclose(a, b[:, :2], atol=1e-3) for a, b in zip(short, long, strict=True))

    def packed_in_one(self, dtype: torch.dtype) -> bool:
        """Whether one kernel of the card attends over all rows of a pack, without asking the host."""
        attention = self.layers[0].attention
        like = attention.norm.weight_H.new_empty((1, 1, 1, attention.size), dtype=dtype)
        return takes_varlen(like)

    def _rotary(self, hidden_NTH: Tensor, packed: PackedRows | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines, (1 or N, T, R); those of rows that begin at 0 are kept from pass to pass.

        Some models ask the card how long the sequence is before they choose their frequencies.
        """
        if packed is not None and packed.table:
            table = self.angles_for(packed.table, hidden_NTH)
            cos_NTR, sin_NTR = (angles_1TR[0][packed.position_ids_NT] for angles_1TR in table)
            return cos_NTR, sin_NTR
        if packed is not None:
            cos_NTR, sin_NTR = self._decoder.rotary_emb(hidden_NTH, position_ids=packed.position_ids_NT)
            return cos_NTR.contiguous(), sin_NTR.contiguous()
        return self.angles_for(hidden_NTH.shape[1], hidden_NTH)

    def angles_for(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (1, T, R) of the first ``length`` positions, in the dtype of ``like``."""
        key = (length, like.dtype)
        if self.angles is None or self.angles[0] != key:
            position_ids_1T = torch.arange(length, device=like.device).unsqueeze(0)
            cos_1TR, sin_1TR = self._decoder.rotary_emb(like, position_ids=position_ids_1T)
            self.angles = key, cos_1TR.contiguous(), sin_1TR.contiguous()
        return self.angles[1], self.angles[2]


class _FinalNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NTH: Tensor, norm: Norm) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(hidden_NTH)
        ctx.norm = norm
        return rms_norm(hidden_NTH, norm.weight_H, norm.eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (hidden_NTH,) = ctx.saved_tensors
        norm: Norm = ctx.norm
        grad_NTH = grads[0].to(hidden_NTH.dtype).contiguous()
        return rms_norm_gradient(grad_NTH, hidden_NTH, norm.weight_H, norm.eps), None


def _norm(module: Any) -> Norm:  # noqa: ANN401
    return Norm(module.weight.detach(), float(module.variance_epsilon))


def _layer(module: Any, config: Any, tile: int, site: str | None) -> DecoderLayer:  # noqa: ANN401
    attention, mlp = module.self_attn, module.mlp
    fused = KNOWN_TYPES[config.model_type]
    projections = [attention.qkv_proj] if fused else [attention.q_proj, attention.k_proj, attention.v_proj]
    expand = [mlp.gate_up_proj] if fused else [mlp.gate_proj, mlp.up_proj]
    return DecoderLayer(
        Attention(
            _norm(module.input_layernorm),
            tuple(map(LoraLinear.of, projections)),
            LoraLinear.of(attention.o_proj),
            config.num_attention_heads,
            config.num_key_value_heads,
            attention.head_dim,
            float(attention.scaling),
        ),
        GatedMLP(
            _norm(module.post_attention_layernorm),
            tuple(map(LoraLinear.of, expand)),
            LoraLinear.of(mlp.down_proj),
            _ACTIVATIONS[config.hidden_act],
            tile,
        ),
        site,
    )


def why_not_lean(causal_lm: nn.Module, longest: int) -> str | None:
    """Why this model must run as transformers wrote it, in words; None if it need not.

    Args:
        longest: the longest sequence in tokens.
    """
    config: Any = causal_lm.config
    if config.model_type not in KNOWN_TYPES:
        return _("the architecture %(kind)s is not among %(known)s") % {
            "kind": config.model_type, "known": ", ".join(KNOWN_TYPES),
        }  # fmt: skip
    if config.hidden_act not in _ACTIVATIONS:
        return _("the activation %(name)s is not known here") % {"name": config.hidden_act}
    if getattr(config, "_attn_implementation", "sdpa") != "sdpa":
        return _("attention other than sdpa is asked for")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if (window is not None and window < longest and getattr(config, "use_sliding_window", True)) or (
        window is None and kinds != {"full_attention"}
    ):
        return _("it attends within a sliding window shorter than the sequence")
    for name in ("attention_dropout", "resid_pdrop", "embd_pdrop"):
        if getattr(config, name, 0.0):
            return _("it has %(name)s") % {"name": name}
    return None
