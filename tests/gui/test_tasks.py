"""Everyday tasks done as a person does them, with clicks and keys only, and the steps counted.

A step is a click, a shortcut, or a text typed into one place. ``python tests/gui/everyday_tasks.py`` runs
these and those that train (`test_tasks_training`) on a real X screen and prints the counts.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from person import Person
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QApplication, QLineEdit
from recorded_runs import recorded_run
from test_real_run import elsewhere

from so8t_engine.config import Config
from so8t_engine.i18n import language
from so8t_gui import theme
from so8t_gui.charts.chart_menu import ChartMenu
from so8t_gui.widgets.palette import CommandPalette

pytestmark = elsewhere


def two_runs(config: Config) -> Path:
    folder = Path(config.run.directory)
    recorded_run(config, folder / "one", 40)
    recorded_run(config, folder / "two", 60)
    return folder


def test_change_the_sequence_length_and_see_the_budget(person: Person) -> None:
    person.page("settings")
    page = person.window.settings_page
    row = page.form.rows["data.max_length"]
    field = row.editor.findChildren(QLineEdit)[0]
    old = page._estimate
    person.click(field)
    person.write(field, "96")
    person.wait(lambda: page.config() is not None and page.config().data.max_length == 96)  # type: ignore[union-attr]
    assert old is not None
    assert page._estimate is not None
    assert page._estimate.peak_bytes < old.peak_bytes
    person.end(3)


def test_compare_two_runs(person: Person, demo_config: Config) -> None:
    two_runs(demo_config)
    person.page("history")
    page = person.window.history_page
    person.wait(lambda: page.table_model.rowCount() == 2)
    for row in (0, 1):
        place = page.table.visualRect(page.table_model.index(row, 0)).center()
        person.click(page.table.viewport(), place, ctrl=row == 1)
    person.click(page.list.compare_button)
    person.wait(lambda: page.stack.currentIndex() == 2 and len(page.comparison.board.runs) == 2)
    person.end(4)


def test_export_a_chart(
    person: Person, demo_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = two_runs(demo_config)
    person.window.open_run(folder / "one")
    view = person.window.history_page.view
    person.wait(lambda: view.isVisible() and view.redraws > 0)
    monkeypatch.chdir(tmp_path)  # where the dialog begins
    target = tmp_path / "loss.csv"
    person.answer_file_dialog(target.name)
    person.click_menu(view.overview.loss.header.findChildren(ChartMenu)[0], "Export as")
    person.wait(target.exists)
    assert target.read_text(encoding="utf-8").startswith("step,training")
    person.end(4)


def test_switch_language_and_theme(person: Person) -> None:
    person.menu("View", "Language", "日本語")
    person.wait(lambda: language() == "ja")
    person.menu("表示", "テーマ", "ダーク")
    assert theme.current().name == "dark"
    person.end(6)
    person.window.show_as("en", "light")


def test_find_the_highest_commutator_block(person: Person, demo_config: Config) -> None:
    folder = two_runs(demo_config)
    person.window.open_run(folder / "two")
    view = person.window.history_page.view
    person.wait(view.isVisible)
    bar = view.tabs.tabBar()
    person.click(bar, bar.tabRect(1).center())
    person.wait(lambda: view.rotations.highest.isEnabled())
    person.click(view.rotations.highest)
    assert view.rotations.block.value() == view.rotations.strip.largest()
    person.end(2)


def test_go_anywhere_by_typing(person: Person, demo_config: Config) -> None:
    two_runs(demo_config)
    window = person.window
    person.menu("Help", "Commands")
    palette = [w for w in QApplication.topLevelWidgets() if isinstance(w, CommandPalette) and w.isVisible()][
        -1
    ]
    field = palette.field
    person.write(field, "view history")
    person.keys(field, Qt.Key.Key_Return, Qt.KeyboardModifier.NoModifier)
    person.wait(lambda: window.pages.specs[window.pages.currentIndex()].name == "history")
    person.end(4)
