"""A settings page without a screen, with a small model on disk to estimate."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from so8t_engine import i18n
from so8t_engine.config import Config, load_config
from so8t_engine.memory.fit import with_changes
from so8t_gui.forms.undo import UndoHistory
from so8t_gui.pages.settings_page import FIRST_PRESET, SettingsPage


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


@pytest.fixture(scope="module")
def built_page(prepared_app: QApplication) -> Iterator[SettingsPage]:
    """Building the form takes longer than most tests with it."""
    i18n.set_language("en")
    page = SettingsPage()
    page.resize(1060, 760)
    yield page
    page.shut_down()
    page.close()
    page.deleteLater()


@pytest.fixture
def new_page(qtbot: QtBot, fitting: Config) -> SettingsPage:
    """A page that nobody has had the focus in, and to which Qt has added nothing."""
    page = SettingsPage()
    qtbot.addWidget(page)
    page.resize(1060, 760)
    page.set_config(fitting)
    page.show()
    qtbot.waitExposed(page)
    return page


@pytest.fixture
def page(built_page: SettingsPage, qtbot: QtBot, fitting: Config) -> Iterator[SettingsPage]:
    """A shown settings page that holds `fitting`, as a new one would."""
    page = built_page
    page.set_locked(False)
    for button in (page.toolbar.yaml, page.toolbar.changed, page.toolbar.all):
        button.setChecked(False)
    page.toolbar.search.clear()
    page.budget.show_probe(False, "")
    page._forget_undo()
    page._steps = UndoHistory()
    for config in (load_config(FIRST_PRESET), fitting):
        page.set_config(config)
    page.show()
    qtbot.waitExposed(page)
    yield page
    page.hide()
    for timer in page.findChildren(QTimer):
        timer.stop()
