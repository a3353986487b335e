"""A settings page without a screen, with a small model on disk to estimate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from pytestqt.qtbot import QtBot

from so8t_engine import i18n
from so8t_engine.config import Config, load_config
from so8t_engine.memory.fit import with_changes
from so8t_gui.pages.settings_page import SettingsPage


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    before = i18n.language()
    i18n.set_language("en")
    yield
    i18n.set_language(before)


@pytest.fixture
def fitting() -> Config:
    """Phi-3.5-mini on an 8 GB card: known without a download."""
    return load_config("phi35_8gb")


@pytest.fixture
def too_large(fitting: Config) -> Config:
    return with_changes(
        fitting, {"model.quantization": "int8", "training.batch_size": 16, "data.max_length": 4096}
    )


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A folder with a tiny Phi-3's config.json."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 100}
    folder = tmp_path / "model"
    folder.mkdir()
    content = {"model_type": "phi3", "num_attention_heads": 4, **sizes}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def page(qtbot: QtBot, fitting: Config) -> SettingsPage:
    """A shown settings page that holds `fitting`."""
    page = SettingsPage()
    qtbot.addWidget(page)
    page.resize(1060, 760)
    page.set_config(fitting)
    page.show()
    qtbot.waitExposed(page)
    return page
