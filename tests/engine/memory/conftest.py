"""Model folders for the memory tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

PHI3 = {
    "model_type": "phi3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}


def write_model(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in {**PHI3, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def no_earlier_runs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests' runs needed corrects no estimate here."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))


@pytest.fixture(name="write_model")
def write_model_fixture() -> Callable[..., Path]:
    """Writes a small Phi-3 ``config.json`` into a folder; keywords replace or (None) remove keys."""
    return write_model
