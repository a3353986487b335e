"""The tiny model and its rows, for fixtures and for the harnesses that run without pytest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from so8t_engine.paths import resources_dir


def write_tiny_model(folder: Path) -> None:
    """A random Phi-3 with fused projections, hidden 64, two layers, and the embedded tokenizer."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    config = Phi3Config(
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        source = resources_dir() / "base_model" / name
        if source.exists():
            shutil.copy(source, folder / name)


def write_few_rows(folder: Path) -> None:
    """24 training and 8 validation rows, the first of the embedded splits."""
    for split, count in (("train", 24), ("validation", 8)):
        lines = (resources_dir() / "data" / "four_class" / f"{split}.jsonl").read_text("utf-8").splitlines()
        (folder / f"{split}.jsonl").write_text("\n".join(lines[:count]) + "\n", "utf-8")


def tiny_values(model: Path, rows: Path, runs: Path, /, **sections: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values; keyword arguments replace values of its sections."""
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"path": str(model), "device": "cpu"},
        "data": {"train": str(rows), "max_length": 96},
        "training": {
            "batch_size": 2,
            "accumulation": 2,
            "max_steps": 3,
            "gradient_checkpointing": False,
            "optimizer": "adamw",
            "instruments_every": 2,
        },
        "run": {"directory": str(runs), "cpu_threads": 1},
    }
    for name, section in sections.items():
        values.setdefault(name, {}).update(section)
    return values
