"""Attention within the rows of a packed sequence: no token has any weight on another row's.

A row's tokens are multiplied with that row's alone: the cost grows with the rows' lengths and not with the
whole sequence's, and nothing is masked that was computed first.
"""

# ruff: noqa: N815  (fields of the dataclass are tensors and carry their shapes)

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from so8t_engine.data.packed import CUMULATIVE, ROW_INDEX

log = logging.getLogger(__name__)

#: The name under which transformers' models find `attention_forward`.
NAME = "so8t_packed"


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Where the rows of one packed sequence lie.

    Attributes:
        position_ids_NT: from 0 in every row. row_index_NT: −1 where no row is.
        cumulative_S: int32, where each row begins and the last one ends.
        longest: no row is longer.
        table: all positions are below it, and their angles are looked up in what is kept from pass to pass;
            0 asks the model's own embedding, which may ask the card how long the longest row is.
    """

    position_ids_NT: Tensor
    row_index_NT: Tensor
    cumulative_S: Tensor
    longest: int
    table: int = 0

    @classmethod
    def of(cls, batch: dict[str, Tensor], longest: int, *, recorded: bool = False) -> PackedRows | None:
        """None for a padded batch.

        Args:
            longest: no row has more tokens.
            recorded: the pass asks nobody how long rows are.
        """
        if ROW_INDEX not in batch:
            return None
        positions_NT = batch["position_ids_NT"]
        # The filling at the end, a row of its own, may be longer than any row.
        most = positions_NT.shape[1] if recorded else max(longest, 8)
        return cls(positions_NT, batch[ROW_INDEX], batch[CUMULATIVE], most, longest if recorded else 0)

    def arguments(self, apart: bool) -> dict[str, Any]:
        """What a transformers model is called with; ``apart`` says that `use_packed_attention` is in force.

        Otherwise transformers itself makes a block-diagonal mask, from the positions and no mask.
        """
        if not apart:
            return {"position_ids": self.position_ids_NT, "attention_mask": None}
        return {
            "position_ids": self.position_ids_NT,
            # A finished mask of four dimensions: none is made, and `attention_forward` needs none.
            "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self.position_ids_NT.device),
            "cu_seq_lens_q": self.cumulative_S,
            "cu_seq_lens_k": self.cumulative_S,
            "max_length_q": self.longest,
            "max_length_k": self.longest,
        }

    def block_mask(self) -> Tensor:
        """Which token (N, 1, T, T) may look at which: earlier ones of its own row, and itself."""
        tokens = self.row_index_NT.shape[1]
        same_NTT = self.row_index_NT.unsqueeze(-1) == self.row_index_NT.unsqueeze(-2)
        return (
            torch.ones((tokens, tokens), dtype=torch.bool, device=same_NTT.device).tril() & same_NTT[:, None]
        )


def attend(
    query_1hTD: Tensor, key_1kTD: Tensor, value_1kTD: Tensor, cumulative_S: Tensor, longest: int, scale: float
) -> Tensor:
    """Causal attention within each row, shape (1, h, T, D), differentiable.

    On a card in half precision by one kernel for all rows, without reading anything back; elsewhere row by
    row.

    Args:
        query_1hTD: h heads; keys and values may have fewer (k), each for h/k of the queries' heads.
        cumulative_S: int32, where each row begins and the last one ends; rows cover the whole sequence.
        longest: no row is longer.
        scale: of the scores.
    """
    if takes_varlen(query_1hTD):
        return _by_one_kernel(query_1hTD, key_1kTD, value_1kTD, cumulative_S, longest, scale)
    return _row_by_row(query_1hTD, key_1kTD, value_1kTD, cumulative_S, scale)


def _row_by_row(query: Tensor, key: Tensor, value: Tensor, cumulative_S: Tensor, scale: float) -> Tensor:
    # Rows without tokens are left out.
    ends = list(dict.fromkeys(cumulative_S.tolist()))
    if _takes_flash(query, key):
        mixed_1hTD: Tensor = _FlashRows.apply(query, key, value, ends, scale)  # type: ignore[no-untyped-call]
        return mixed_1hTD
    grouped = query.shape[1] != key.shape[1]
    sizes = [end - begin for begin, end in pairwise(ends)]
    # split, not slices: its backward joins the pieces once instead of adding a full tensor per row.
    rows = zip(*(torch.split(one, sizes, 2) for one in (query, key, value)), strict=True)
    mixed = [
        functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
        for q, k, v in rows
    ]
    return torch.cat(mixed, dim=2)


def _takes_flash(query: Tensor, key: Tensor) -> bool:
    return (
        query.device.type == "cpu"
        and query.dtype in (torch.float32, torch.float64)
        and query.shape[1] == key.shape[1]
        and hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward")
    )


class _FlashRows(torch.autograd.Function):
    """PyTorch's CPU kernel, which `scaled_dot_product_attention` calls too, row by row into one tensor.

    As one node of the graph: with a node for each row, cutting and joining cost a fifth of the attention.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        query: Tensor,
        key: Tensor,
        value: Tensor,
        ends: list[int],
        scale: float,
    ) -> Tensor:
        attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        sizes = [end - begin for begin, end in pairwise(ends)]
        rows = zip(*(torch.split(one, sizes, 2) for one in (query, key, value)), strict=True)
        found = [attention(q, k, v, 0.0, True, scale=scale) for q, k, v in rows]
        out_1ThD = query.new_empty((1, query.shape[2], query.shape[1], query.shape[3]))
        torch.cat([row_1hnD.transpose(1, 2) for row_1hnD, _sum in found], 1, out=out_1ThD)
        out_1hTD = out_1ThD.transpose(1, 2)
        ctx.save_for_backward(query, key, value, out_1hTD, *(sum_1hn for _row, sum_1hn in found))
        ctx.sizes, ctx.scale = sizes, scale
        return out_1hTD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        query, key, value, out, *sums = ctx.saved_tensors
        gradient = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        heads = query.shape[1]
        # Side by side, as one product with a fused q/k/v weight takes them.
        whole_1TgD = query.new_empty((1, query.shape[2], 3 * heads, query.shape[3]))
        cut = (torch.split(one, ctx.sizes, 2) for one in (grads[0], query, key, value, out))
        for part_1ngD, sum_1hn, row in zip(
            torch.split(whole_1TgD, ctx.sizes, 1), sums, zip(*cut, strict=True), strict=True
        ):
            found = gradient(*row, sum_1hn, 0.0, True, scale=ctx.scale)
            torch.cat([grad_1hnD.transpose(1, 2) for grad_1hnD in found], 2, out=part_1ngD)
        return (*(part.transpose(1, 2) for part in torch.split(whole_1TgD, heads, 2)), None, None)


def side_by_side(parts_NhTD: Sequence[Tensor]) -> Tensor | None:
    """The contiguous tensor (N, T, Σ h·D) whose consecutive units the parts are; None if there is none."""
    first = parts_NhTD[0]
    count, _heads, tokens, size = first.shape
    width = sum(part.shape[1] for part in parts_NhTD) * size
    start = first.data_ptr()
    for part in parts_NhTD:
        if part.stride() != (tokens * width, size, width, 1) or part.data_ptr() != start:
            return None
        start += part.shape[1] * size * part.element_size()
    return first.as_strided((count, tokens, width), (tokens * width, width, 1))


def _by_one_kernel(
    query: Tensor, key: Tensor, value: Tensor, cumulative_S: Tensor, longest: int, scale: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if (shared := query.shape[1] // key.shape[1]) > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    # Views: the kernel reads them where they are, and no copies live until the backward pass.
    query_ThD, key_ThD, value_ThD = (one[0].transpose(0, 1) for one in (query, key, value))
    # torch 2.10 and 2.11 say is_causal, later versions a window that reaches back without end.
    named = "window_size" in inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if named else {"is_causal": True}
    mixed_ThD = varlen_attn(
        query_ThD, key_ThD, value_ThD, cumulative_S, cumulative_S, longest, longest, scale=scale, **causal
    )
    assert isinstance(mixed_ThD, Tensor)
    return mixed_ThD.transpose(0, 1).unsqueeze(0)


def takes_varlen(query: Tensor) -> bool:
    """Whether `attend` runs one kernel over all rows of such queries (1, h, T, D): a card, half precision."""
    half = query.dtype in (torch.bfloat16, torch.float16)
    return query.is_cuda and half and _varlen_works(query.device, query.dtype, query.shape[-1])


@cache
def _varlen_works(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether torch's attention over rows of any length runs here and agrees, with its gradients."""
    try:
        random = torch.Generator().manual_seed(0)
        ends_S = torch.tensor([0, 3, 20, 24], dtype=torch.int32, device=device)
        made = [torch.randn((1, 2, 24, size), generator=random).to(device, dtype) for _one in range(4)]
        with torch.enable_grad():
            found = []
            for kind in (0, 1):
                query, key, value = (one.detach().requires_grad_() for one in made[:3])
                if kind:
                    out = _by_one_kernel(query, key, value, ends_S, 17, 0.1)
                else:
                    out = _row_by_row(query, key, value, ends_S, 0.1)
                found.append((out.detach(), *torch.autograd.grad(out, (query, key, value), made[3])))
        worst = max(float((a - b).abs().max()) for a, b in zip(*found, strict=True))
    except Exception:
        log.warning("attention over packed rows goes row by row here", exc_info=True)
        return False
    if not worst < 0.05:
        log.warning("torch's attention over packed rows differs by %.1e: row by row instead", worst)
    return worst < 0.05


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """transformers' attention interface: packed rows by `attend`, all else as sdpa does it."""
    if cu_seq_lens_q is None or max_length_q is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed_NThD, _weights = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return mixed_NThD, None
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    mixed_1hTD = attend(query, key, value, cu_seq_lens_q, max_length_q, scale)
    return mixed_1hTD.transpose(1, 2).contiguous(), None


def use_packed_attention(causal_lm: Any, longest: int) -> bool:  # noqa: ANN401  (transformers' classes share no type)
    """Let the model's layers call `attention_forward`; it does for padded batches what sdpa does.

    Returns:
        False, and nothing changes, where the attention is not sdpa, has dropout, or looks back less far than
        ``longest``: there transformers' own mask keeps the rows apart.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = causal_lm.config
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation != "sdpa" or getattr(config, "attention_dropout", 0.0):
        return False
    if window is not None and window < longest:
        return False
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    causal_lm.set_attn_implementation(NAME)
    return True


def real_rows(batch: dict[str, Tensor], rows: float | Tensor) -> tuple[Tensor | None, float | Tensor]:
    """Which places (N,) of a recorded pack hold a row, None for all; and these rows' share of ``rows``."""
    count = len(batch["task_N"])
    if ROW_INDEX not in batch:
        return None, count / rows
    held = batch[ROW_INDEX].amax() + 1
    return torch.arange(count, device=held.device) < held, held / rows
