"""A tiny Phi-3 with random weights, and text to compare logits on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Phi3Config, Phi3ForCausalLM

HIDDEN = 64


def tiny_phi3(*, tied: bool = False, vocabulary: int = 256, seed: int = 0, intermediate: int = 96) -> Any:  # noqa: ANN401
    torch.manual_seed(seed)
    config = Phi3Config(
        vocab_size=vocabulary,
        hidden_size=HIDDEN,
        intermediate_size=intermediate,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
    )
    return Phi3ForCausalLM(config).eval()


def real_text_ids(rows: int = 4, tokens: int = 96) -> list[Tensor]:
    """Bytes of this repository's licence: real text, and no tokenizer to download."""
    text = (Path(__file__).parents[3] / "LICENSE").read_bytes()
    return [torch.tensor([list(text[row * tokens : (row + 1) * tokens])]) for row in range(rows)]
