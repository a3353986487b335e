"""The history as a place to work in: search, notes, comparison, duplicating, deleting with undo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QMenu
from pytestqt.qtbot import QtBot
from recorded_runs import recorded_run

from so8t_engine.config import Config
from so8t_engine.history.notes import RunNotes
from so8t_engine.i18n import language, set_language
from so8t_gui.main_window import MainWindow
from so8t_gui.models.names import cell
from so8t_gui.pages.history_page import HistoryPage


@pytest.fixture
def page(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> HistoryPage:
    monkeypatch.setattr("so8t_engine.history.index.index_file", lambda: tmp_path / "index.sqlite")
    folder = Path(demo_config.run.directory)
    recorded_run(demo_config, folder / "one", 40)
    other = demo_config.model_copy(update={"lora": demo_config.lora.model_copy(update={"r": 4})})
    recorded_run(other, folder / "two", 60)
    window.show_page("history")
    qtbot.waitUntil(lambda: window.history_page.table_model.rowCount() == 2, timeout=5000)
    return window.history_page


def select(page: HistoryPage, *names: str) -> None:
    page.table.clearSelection()
    selection = page.table.selectionModel()
    for row, run in enumerate(page.table_model.runs):
        if run.summary.path.name in names:
            flags = selection.SelectionFlag.Select | selection.SelectionFlag.Rows
            selection.select(page.table_model.index(row, 0), flags)


def entry(page: HistoryPage, text: str) -> None:
    menu = QMenu(page)
    page.list._fill_more(menu)
    next(action for action in menu.actions() if action.text() == text).trigger()


def test_search_shows_only_what_matches(page: HistoryPage, qtbot: QtBot) -> None:
    qtbot.keyClicks(page.list.search, "lora.r=4")
    assert [run.summary.path.name for run in page.table_model.runs] == ["two"]
    qtbot.keyClicks(page.list.search, " nonsense")
    assert page.list.empty.isVisible()
    assert page.list.empty.text() == "No run matches the search."


def test_tags_and_notes_are_kept_in_the_run(page: HistoryPage, qtbot: QtBot) -> None:
    select(page, "two")
    qtbot.keyClicks(page.list.notes.tags, "best, small")
    page.list.notes.note.setPlainText("<b>plain</b>")
    select(page, "one")
    assert RunNotes.read(page.folder / "two") == RunNotes(("best", "small"), "<b>plain</b>")
    qtbot.waitUntil(lambda: any("best" in run.notes.tags for run in page.table_model.all), timeout=3000)


def test_runs_are_overlaid_and_their_settings_compared(page: HistoryPage, qtbot: QtBot) -> None:
    select(page, "one", "two")
    assert page.list.compare_button.isEnabled()
    qtbot.mouseClick(page.list.compare_button, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.stack.currentIndex() == 2, timeout=5000)
    view = page.comparison
    lengths = {len(item.getOriginalDataset()[0]) for item in view.board.named["loss"]._items.values()}
    assert lengths == {40, 60}
    cells = [view.settings.item(0, column).text() for column in range(3)]  # type: ignore[union-attr]
    assert cells[0] == "lora.r"
    assert sorted(cells[1:]) == ["32", "4"]
    view.against.setCurrentIndex(1)
    names = {view.settings.item(row, 0).text() for row in range(view.settings.rowCount())}  # type: ignore[union-attr]
    assert "data.max_length" in names, "against the defaults more differs"
    assert np.isfinite(view.board.link.span()).all()


def test_values_of_the_comparison_are_in_the_persons_language(page: HistoryPage) -> None:
    final = page.folder / "one" / "final"
    final.mkdir()
    facts = {"alpha_source": "learned", "memory": {"memory_predicted_by": "estimated"}, "last_loss": 0.5}
    (final / "results.json").write_text(json.dumps(facts), encoding="utf-8")
    view = page.comparison
    before = language()
    set_language("ja")
    try:
        view._fill_results([page.folder / "one", page.folder / "two"])
        table = view.results
        said = {
            (table.item(row, 1).text(), table.item(row, 2).text())  # type: ignore[union-attr]
            for row in range(table.rowCount())
        }
        assert said == {("学習値", "—"), ("推定", "—"), ("0.5", "—")}
        assert [cell(one) for one in (True, [False, 2], "learned")] == ["はい", "いいえ, 2", "learned"]
    finally:
        set_language(before)


def test_a_run_is_duplicated_into_the_form(window: MainWindow, page: HistoryPage, qtbot: QtBot) -> None:
    select(page, "two")
    qtbot.mouseClick(page.list.duplicate_button, Qt.MouseButton.LeftButton)
    assert window.pages.currentIndex() == 1
    config = window.settings_page.config()
    assert config is not None
    assert config.lora.r == 4


def test_pins_archive_and_delete_with_undo(page: HistoryPage, qtbot: QtBot) -> None:
    select(page, "one")
    entry(page, "&Pin to the top")
    qtbot.waitUntil(lambda: page.table_model.runs[0].notes.pinned, timeout=3000)
    assert page.table_model.runs[0].summary.path.name == "one"
    entry(page, "&Archive")
    qtbot.waitUntil(lambda: page.table_model.rowCount() == 1, timeout=3000)
    page.list.archived.click()
    assert page.table_model.rowCount() == 2
    select(page, "one", "two")
    entry(page, "&Delete")
    qtbot.waitUntil(lambda: page.table_model.rowCount() == 0, timeout=3000)
    assert "2 runs were deleted" in page.message.sentence.text()
    qtbot.mouseClick(page.message.action, Qt.MouseButton.LeftButton)
    qtbot.waitUntil(lambda: page.table_model.rowCount() == 2, timeout=3000)
    assert (page.folder / "one" / "events.jsonl").exists()
