"""A small Phi-3 with a tokenizer of the kind of Phi-3's own, made from texts of this repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Phi3Config, Phi3ForCausalLM

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")


def lines() -> list[str]:
    """English and Japanese lines, tables and code among them."""
    files = [ROOT / "README.md", ROOT / "README.ja.md", *sorted((ROOT / "resources" / "guide").glob("*.md"))]
    return [line for file in files for line in file.read_text("utf-8").splitlines() if line]


def _added(index: int, text: str, rstrip: bool, special: bool = True) -> dict[str, Any]:
    return {
        "id": index, "content": text, "single_word": False, "lstrip": False, "rstrip": rstrip,
        "normalized": False, "special": special,
    }  # fmt: skip


def tokenizer_json() -> dict[str, Any]:
    """Llama 2's normaliser and merges; Phi-3's chat tokens take the white space that follows them."""
    base = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    base.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    leading = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=leading, show_progress=False, max_token_length=12
    )
    base.train_from_iterator(("▁" + line.replace(" ", "▁") for line in lines()), trainer)
    model = json.loads(base.to_str())["model"]
    vocab = model["vocab"]
    made = {left + right: None for left, right in model["merges"]}
    # As converted from SentencePiece: every way to put a piece together, in the order of the pieces.
    merges = [
        [piece[:cut], piece[cut:]]
        for piece in made
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    ]
    added = [_added(0, "<unk>", False), _added(1, "<s>", False), _added(2, "</s>", True, special=False)]
    added += [_added(len(vocab) + i, text, text != NAMES[0]) for i, text in enumerate(NAMES)]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {
            "type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {**model, "merges": merges},
    }  # fmt: skip


def make_phi3(folder: Path, template: Path, **changes: Any) -> Path:  # noqa: ANN401
    """Write model and tokenizer; ``changes`` go to the model's configuration."""
    folder.mkdir()
    content = tokenizer_json()
    (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    stated = {"add_bos_token": False, "bos_token": "<s>", "eos_token": NAMES[0], "pad_token": NAMES[0],
              "unk_token": "<unk>", "legacy": False, "tokenizer_class": "LlamaTokenizer"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(stated), "utf-8")
    shutil.copy(template / "chat_template.jinja", folder / "chat_template.jinja")
    end = len(content["model"]["vocab"])
    settings: dict[str, Any] = {
        "vocab_size": end + len(NAMES) + 3, "hidden_size": 128, "intermediate_size": 192,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 1, "eos_token_id": end, "pad_token_id": end, "initializer_range": 0.1,
    }  # fmt: skip
    torch.manual_seed(0)
    Phi3ForCausalLM(Phi3Config(**settings | changes)).save_pretrained(folder)
    return folder
