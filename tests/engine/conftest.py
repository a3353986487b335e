"""A tiny model of Phi-3's architecture and few rows, so that whole runs take seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from so8t_engine.config import Config
from so8t_engine.paths import resources_dir


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Phi-3 with fused projections, hidden 64, two layers, and the embedded tokenizer."""
    import torch
    from transformers import Phi3Config, Phi3ForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
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
    return folder


@pytest.fixture(scope="session")
def few_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 training and 8 validation rows, the first of the embedded splits."""
    folder = tmp_path_factory.mktemp("few_rows")
    for split, count in (("train", 24), ("validation", 8)):
        lines = (resources_dir() / "data" / "four_class" / f"{split}.jsonl").read_text("utf-8").splitlines()
        (folder / f"{split}.jsonl").write_text("\n".join(lines[:count]) + "\n", "utf-8")
    return folder


@pytest.fixture
def tiny_config(tiny_model: Path, few_rows: Path, tmp_path: Path) -> Callable[..., Config]:
    """A configuration on the tiny model with 24 rows; keyword arguments replace sections' values."""

    def make(**sections: dict[str, Any]) -> Config:
        values: dict[str, Any] = {
            "name": "tiny",
            "model": {"path": str(tiny_model), "device": "cpu"},
            "data": {"train": str(few_rows), "max_length": 96},
            "training": {
                "batch_size": 2,
                "accumulation": 2,
                "max_steps": 3,
                "gradient_checkpointing": False,
                "optimizer": "adamw",
                "instruments_every": 2,
            },
            "run": {"directory": str(tmp_path / "runs"), "cpu_threads": 1},
        }
        for name, section in sections.items():
            values.setdefault(name, {}).update(section)
        return Config.model_validate(values)

    return make
