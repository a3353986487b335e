"""Undo and redo over the whole form, only what was changed, and the settings as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PySide6.QtCore import Qt
from PySide6.QtWidgets import QLineEdit
from pytestqt.qtbot import QtBot

from so8t_gui.forms.undo import UndoHistory
from so8t_gui.pages.settings_page import SettingsPage


def rank(page: SettingsPage) -> int:
    config = page.config()
    assert config is not None
    return config.lora.r


def length(page: SettingsPage) -> int:
    config = page.config()
    assert config is not None
    return config.data.max_length


@given(st.lists(st.one_of(st.sampled_from(["undo", "redo"]), st.integers(0, 3)), max_size=40))
def test_undo_history_is_a_list_with_a_place_in_it(moves: list[str | int]) -> None:
    history = UndoHistory()
    history.push({"x": -1})
    states, place = [-1], 0
    for move in moves:
        if isinstance(move, int):
            history.push({"x": move})
            if states[place] != move:
                states = [*states[: place + 1], move]
                place += 1
            continue
        found = history.undo() if move == "undo" else history.redo()
        new = place - 1 if move == "undo" else place + 1
        assert (found is not None) == (0 <= new < len(states))
        if found is not None:
            place = new
            assert found == {"x": states[place]}


def test_changes_are_undone_and_done_again_over_the_whole_form(qtbot: QtBot, page: SettingsPage) -> None:
    first = rank(page)
    page.apply_changes({"lora.r": 4})
    page.apply_changes({"training.seed": 99})
    page.toolbar.undo.click()
    assert page.config().training.seed != 99  # type: ignore[union-attr]
    assert rank(page) == 4
    editor = page.form.rows["data.max_length"].editor.findChildren(QLineEdit)[0]
    page.activateWindow()
    qtbot.waitUntil(page.isActiveWindow)
    editor.setFocus()
    qtbot.keyClick(editor, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert rank(page) == first
    page.toolbar.redo.click()
    page.toolbar.redo.click()
    assert (rank(page), page.config().training.seed) == (4, 99)  # type: ignore[union-attr]


def test_only_what_was_changed_is_shown(page: SettingsPage) -> None:
    page.toolbar.changed.click()
    shown = {path for path, row in page.form.rows.items() if not row.isHidden()}
    assert shown == {path for path, row in page.form.rows.items() if row.changed}
    assert shown


def test_text_and_form_say_the_same(page: SettingsPage, qtbot: QtBot) -> None:
    page.toolbar.yaml.click()
    text = page.yaml.text.toPlainText()
    now = length(page)
    assert f"max_length: {now}" in text
    page.yaml.text.setPlainText(text.replace(f"max_length: {now}", "max_length: 96  # shorter"))
    page.yaml.check()
    assert page.form.rows["data.max_length"].value() == 96
    assert page.config().data.max_length == 96  # type: ignore[union-attr]
    assert "# shorter" in page.yaml.text.toPlainText(), "a comment stays while one types"
    page.toolbar.yaml.click()
    page.apply_changes({"data.max_length": 128})
    page.toolbar.yaml.click()
    assert "max_length: 128" in page.yaml.text.toPlainText()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_length: N", "max_length: -3", "max_length"),
        ("max_length: N", "max_lenght: 192", "max_lenght"),
        ("max_length: N", "max_length: [", "YAML"),
    ],
)
def test_a_wrong_text_names_its_line_and_blocks_the_start(
    page: SettingsPage, old: str, new: str, words: str
) -> None:
    page.toolbar.yaml.click()
    text = page.yaml.text.toPlainText()
    page.yaml.text.setPlainText(text.replace(old.replace("N", str(length(page))), new))
    page.yaml.check()
    line = next(i for i, row in enumerate(page.yaml.text.toPlainText().splitlines(), 1) if new in row)
    assert page.yaml.wrong_line() is not None
    # An open bracket is noticed where the next key comes.
    assert 0 <= page.yaml.wrong_line() - line <= 2  # type: ignore[operator]
    assert words in page.yaml.problem.text()
    possible, reason = page.can_start()
    assert not possible
    assert reason
    page.yaml.text.setPlainText(text)
    page.yaml.check()
    assert page.can_start()[0]
