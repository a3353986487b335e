"""The budget card's Measure button: a real probe in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import own_children
from PySide6.QtCore import Qt
from pytestqt.qtbot import QtBot

from so8t_engine.config import load_config
from so8t_engine.memory.fit import with_changes
from so8t_engine.paths import resources_dir
from so8t_gui.pages.settings_page import SettingsPage

LONG_MS = 180_000


@pytest.fixture
def probed_page(page: SettingsPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SettingsPage:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    rows = (resources_dir() / "data" / "four_class" / "train.jsonl").read_text("utf-8").splitlines()[:12]
    (tmp_path / "train.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    changes = {"data.train": str(tmp_path / "train.jsonl"), "training.batch_size": 2, "run.cpu_threads": 1}
    page.set_config(with_changes(load_config("demo"), changes))
    return page


def _click(qtbot: QtBot, page: SettingsPage) -> None:
    qtbot.mouseClick(page.budget.measure, Qt.MouseButton.LeftButton)


def test_a_measured_figure_replaces_the_estimate(qtbot: QtBot, probed_page: SettingsPage) -> None:
    page = probed_page
    assert page.budget.sentence.text().startswith("estimated")
    with qtbot.waitSignal(page.probe.ended, timeout=LONG_MS) as ended:
        _click(qtbot, page)
        assert page.budget.measure.text() == "Cancel"
        assert page.budget.probe_note.text()
    assert ended.args == [""]
    assert page.budget.sentence.text().startswith("measured")
    assert page.budget.measure.text() == "Measure memory"
    assert not page.probe.running


def test_a_probe_can_be_cancelled_and_leaves_no_process(qtbot: QtBot, probed_page: SettingsPage) -> None:
    page = probed_page
    _click(qtbot, page)
    qtbot.waitUntil(lambda: bool(own_children()), timeout=LONG_MS)
    with qtbot.waitSignal(page.probe.ended, timeout=LONG_MS) as ended:
        _click(qtbot, page)
    assert ended.args == ["The probe was cancelled."]
    assert page.budget.sentence.text().startswith("estimated")
    assert not own_children()


def test_a_run_that_starts_ends_the_probe(qtbot: QtBot, probed_page: SettingsPage) -> None:
    page = probed_page
    _click(qtbot, page)
    with qtbot.waitSignal(page.probe.ended, timeout=LONG_MS):
        page.set_locked(True)
    assert not page.budget.measure.isEnabled()
    page.set_locked(False)
    assert page.budget.measure.isEnabled()


def test_a_probe_that_fails_says_why(qtbot: QtBot, probed_page: SettingsPage, tmp_path: Path) -> None:
    page = probed_page
    (tmp_path / "train.jsonl").write_text('{"prompt": 1}\n', "utf-8")
    with qtbot.waitSignal(page.probe.ended, timeout=LONG_MS) as ended:
        _click(qtbot, page)
    (sentence,) = ended.args or [""]
    assert "train.jsonl" in sentence
    assert "line 1" in sentence
    assert page.budget.probe_note.text() == sentence
