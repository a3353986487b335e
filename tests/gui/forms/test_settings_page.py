"""The settings page, driven as a person would: typing, clicking, loading, saving."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint, QPointF, Qt
from PySide6.QtGui import QGuiApplication, QWheelEvent
from PySide6.QtWidgets import QApplication, QComboBox, QDoubleSpinBox, QLabel, QMessageBox
from pytestqt.qtbot import QtBot

from so8t_engine.config import Config, load_config
from so8t_engine.memory.calibration import Finished, remember
from so8t_engine.memory.fit import with_changes
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.forms.editors import NumberEditor
from so8t_gui.pages.settings_page import SettingsPage


def type_into(qtbot: QtBot, page: SettingsPage, path: str, text: str) -> None:
    """Replace the text of a field, key by key."""
    widget = page.form.rows[path].editor.focusProxy()
    assert widget is not None
    widget.setFocus()
    qtbot.keyClick(widget, Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    qtbot.keyClick(widget, Qt.Key.Key_Delete)
    qtbot.keyClicks(widget, text)


def wheel(widget: QDoubleSpinBox | QComboBox) -> None:
    centre = QPointF(widget.rect().center())
    event = QWheelEvent(
        centre,
        widget.mapToGlobal(centre),
        QPoint(0, 120),
        QPoint(0, 120),
        Qt.MouseButton.NoButton,
        Qt.KeyboardModifier.NoModifier,
        Qt.ScrollPhase.NoScrollPhase,
        False,
    )
    QApplication.sendEvent(widget, event)


def test_every_value_of_a_config_survives_the_form(page: SettingsPage) -> None:
    changed = with_changes(
        Config(),
        {
            "training.learning_rate": 3.3e-5,
            "data.max_rows": 12,
            "checkpoints.every_minutes": None,
            "lora.targets": ["o_proj", "down_proj"],
            "so8t.pet_weights": [0.0, 0.25, 1e-9],
            "so8t.gate_layers": [0, 7, -1],
            "model.revision": "abc",
            "training.gradient_checkpointing": False,
            "training.optimizer": "adamw",
        },
    )
    page.set_config(changed)
    assert page.config() == changed
    assert not page.unsaved


def test_typing_changes_the_config_within_the_debounce(qtbot: QtBot, page: SettingsPage) -> None:
    with qtbot.waitSignal(page.configChanged, timeout=1000) as caught:
        type_into(qtbot, page, "training.batch_size", "2")
    assert caught.args[0].training.batch_size == 2
    assert page.unsaved
    assert "unsaved" in page.notes.source.text()


@pytest.mark.parametrize(
    ("path", "text", "named"),
    [
        ("training.batch_size", "0", "at least 1"),
        ("training.learning_rate", "abc", "number"),
        ("training.learning_rate", "nan", "finite"),
        ("data.max_length", "", "whole number"),
        ("so8t.class_weights", "1, 2, x, 4", "number"),
        ("so8t.gate_layers", "1, x", "whole number"),
        ("so8t.gate_layers", "1.5", "whole number"),
        ("model.path", "", "characters"),
    ],
)
def test_a_wrong_value_is_explained_beneath_its_field_and_blocks_the_start(
    qtbot: QtBot, page: SettingsPage, path: str, text: str, named: str
) -> None:
    seen: list[object] = []
    page.configChanged.connect(seen.append)
    type_into(qtbot, page, path, text)
    assert page.config() is None
    row = page.form.rows[path]
    assert row.error.isVisible()
    assert path in row.error.text()
    assert named in row.error.text()
    allowed, reason = page.can_start()
    assert not allowed
    assert path in reason
    assert seen[-1] is None
    row.reset()
    assert page.config() is not None
    assert not row.error.isVisible()


def test_a_list_of_whole_numbers_is_typed_and_emptied_again(qtbot: QtBot, page: SettingsPage) -> None:
    type_into(qtbot, page, "so8t.gate_layers", "3, -1")
    config = page.config()
    assert config is not None
    assert config.so8t.gate_layers == [3, -1]
    type_into(qtbot, page, "so8t.gate_layers", "")
    config = page.config()
    assert config is not None
    assert config.so8t.gate_layers == []
    assert "none" in page.form.rows["so8t.gate_layers"].spec.default_text()


def test_a_problem_of_a_whole_section_stands_beneath_its_title(qtbot: QtBot, page: SettingsPage) -> None:
    page.toolbar.all.click()
    type_into(qtbot, page, "so8t.pet_fractions", "0.5, 0.4, 0.4")
    assert page.config() is None
    group = next(group for group in page.form.groups if group.spec.path == "so8t")
    assert group.error.isVisible()
    assert "add up to 1" in group.error.text()


def test_reset_is_offered_when_changed_and_restores_the_default(qtbot: QtBot, page: SettingsPage) -> None:
    row = page.form.rows["lora.r"]
    assert not row._reset.isVisible()
    type_into(qtbot, page, "lora.r", "64")
    assert row.changed
    assert row._reset.isVisible()
    qtbot.mouseClick(row._reset, Qt.MouseButton.LeftButton)
    config = page.config()
    assert config is not None
    assert config.lora.r == 16
    assert not row._reset.isVisible()


def test_arrow_keys_step_and_a_log_field_multiplies(qtbot: QtBot, page: SettingsPage) -> None:
    widget = page.form.rows["training.learning_rate"].editor.focusProxy()
    assert widget is not None
    qtbot.keyClick(widget, Qt.Key.Key_Up)
    config = page.config()
    assert config is not None
    assert config.training.learning_rate == 5e-4


def test_leaving_a_number_field_keeps_the_text_as_typed(qtbot: QtBot, page: SettingsPage) -> None:
    type_into(qtbot, page, "training.learning_rate", "3e-5")
    widget = page.form.rows["training.learning_rate"].editor.focusProxy()
    assert isinstance(widget, QDoubleSpinBox)
    qtbot.keyClick(widget, Qt.Key.Key_Return)
    page.form.rows["lora.r"].editor.setFocus()
    assert widget.lineEdit().text() == "3e-5"
    config = page.config()
    assert config is not None
    assert config.training.learning_rate == 3e-5


def test_an_emptied_optional_field_is_unset(qtbot: QtBot, page: SettingsPage) -> None:
    type_into(qtbot, page, "checkpoints.every_minutes", "")
    config = page.config()
    assert config is not None
    assert config.checkpoints.every_minutes is None


def test_the_wheel_changes_nothing_without_focus(page: SettingsPage) -> None:
    page.toolbar.search.setFocus()
    before = page.config()
    for row in page.form.rows.values():
        for kind in (QDoubleSpinBox, QComboBox):
            for widget in row.editor.findChildren(kind):
                wheel(widget)
    assert page.config() == before


def test_the_wheel_steps_a_focused_number(new_page: SettingsPage) -> None:
    page = new_page
    editor = page.form.rows["lora.r"].editor
    assert isinstance(editor, NumberEditor)
    editor.setFocus()
    wheel(editor._edit)
    config = page.config()
    assert config is not None
    assert config.lora.r == 17


def test_basic_hides_advanced_settings_and_search_finds_them(qtbot: QtBot, page: SettingsPage) -> None:
    row = page.form.rows["so8t.focal_gamma"]
    assert not row.isVisible()
    page.toolbar.all.click()
    assert row.isVisible()
    page.toolbar.all.click()
    qtbot.keyClicks(page.toolbar.search, "focal easy")
    assert row.isVisible()
    assert not page.form.rows["lora.r"].isVisible()
    page.toolbar.search.clear()
    assert not row.isVisible()


def test_a_wrong_advanced_setting_is_shown_in_basic(qtbot: QtBot, page: SettingsPage) -> None:
    page.toolbar.all.click()
    type_into(qtbot, page, "memory.loss_chunk", "1")
    page.config()
    page.toolbar.all.click()
    assert page.form.rows["memory.loss_chunk"].isVisible()


def test_the_budget_follows_typing(qtbot: QtBot, page: SettingsPage) -> None:
    before = page.budget.sentence.text()
    assert "estimated" in before
    type_into(qtbot, page, "data.max_length", "4096")
    qtbot.waitUntil(lambda: page.budget.sentence.text() != before, timeout=1000)
    assert page.can_start() == (True, "")
    assert "Frozen weights" in page.budget.bar.toolTip()


def test_a_run_that_does_not_fit_is_blocked_and_one_click_mends_it(
    qtbot: QtBot, page: SettingsPage, too_large: Config
) -> None:
    page.set_config(too_large)
    allowed, reason = page.can_start()
    assert not allowed
    assert "GiB" in reason
    assert page.budget.reason.text() == reason
    with qtbot.waitSignal(page.configChanged):
        qtbot.mouseClick(page.budget.apply, Qt.MouseButton.LeftButton)
    assert page.can_start() == (True, "")
    config = page.config()
    assert config is not None
    effective = config.training.batch_size * config.training.accumulation
    assert effective == too_large.training.batch_size * too_large.training.accumulation
    assert not page.budget.apply.isVisible()


def test_a_missing_model_folder_blocks_and_an_unknown_hub_model_does_not(
    qtbot: QtBot, page: SettingsPage, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(model_folder))
    type_into(qtbot, page, "model.path", "./no/such/folder")
    allowed, reason = page.can_start()
    assert not allowed
    assert "./no/such/folder" in reason
    type_into(qtbot, page, "model.path", "someone/some-model")
    assert page.can_start()[0]
    assert "someone/some-model" in page.budget.sentence.text()
    type_into(qtbot, page, "model.path", str(model_folder))
    assert page.can_start() == (True, "")


def test_locked_shows_whose_settings_they_are_and_takes_no_edits(qtbot: QtBot, page: SettingsPage) -> None:
    before = page.config()
    page.set_locked(True)
    assert page.notes.lock.isVisible()
    assert "phi35-8gb" in page.notes.lock.text()
    type_into(qtbot, page, "lora.r", "64")
    assert page.config() == before
    assert not page.load_file(Path("demo.yaml"))
    assert not page.can_start()[0]
    page.set_locked(False)
    assert not page.notes.lock.isVisible()
    assert page.can_start()[0]


def test_settings_are_saved_and_loaded(page: SettingsPage, tmp_path: Path) -> None:
    page.apply_changes({"lora.r": 8})
    file = tmp_path / "mine.yaml"
    assert page.unsaved
    assert page.save_file(file)
    assert not page.unsaved
    assert load_config(file) == page.config()
    page.set_config(Config())
    assert page.load_file(file)
    config = page.config()
    assert config is not None
    assert config.lora.r == 8
    assert "mine.yaml" in page.command.text.toPlainText()


def test_a_wrong_file_names_file_and_line_and_changes_nothing(page: SettingsPage, tmp_path: Path) -> None:
    before = page.config()
    file = tmp_path / "wrong.yaml"
    file.write_text("name: x\ntraining:\n  batch_sise: 2\n", encoding="utf-8")
    assert not page.load_file(file)
    assert page.notes.message.isVisible()
    assert f"{file}:3" in page.notes.message.text()
    assert "training.batch_size" in page.notes.message.text()
    assert page.config() == before


def test_an_invalid_form_is_not_saved(qtbot: QtBot, page: SettingsPage, tmp_path: Path) -> None:
    type_into(qtbot, page, "lora.r", "x")
    file = tmp_path / "mine.yaml"
    assert not page.save_file(file)
    assert not file.exists()
    assert page.notes.message.isVisible()


def test_a_place_that_cannot_be_written_is_a_sentence(page: SettingsPage, tmp_path: Path) -> None:
    assert not page.save_file(tmp_path / "missing" / "mine.yaml")
    assert "mine.yaml" in page.notes.message.text()


@pytest.mark.parametrize("replace", [True, False])
def test_loading_over_unsaved_changes_asks(
    qtbot: QtBot, page: SettingsPage, monkeypatch: pytest.MonkeyPatch, replace: bool
) -> None:
    page.apply_changes({"lora.r": 8})

    def answer(box: QMessageBox) -> int:
        role = QMessageBox.ButtonRole.AcceptRole if replace else QMessageBox.ButtonRole.RejectRole
        next(button for button in box.buttons() if box.buttonRole(button) is role).click()
        return 0

    monkeypatch.setattr(QMessageBox, "exec", answer)
    preset = page.toolbar.presets.menu().actions()[0]
    preset.trigger()
    config = page.config()
    assert config is not None
    assert (config.lora.r != 8) is replace


def test_the_command_is_copied(qtbot: QtBot, page: SettingsPage) -> None:
    qtbot.mouseClick(page.command.copy, Qt.MouseButton.LeftButton)
    assert QGuiApplication.clipboard().text().startswith("so8t train phi35_8gb")


def test_help_follows_the_focus(qtbot: QtBot, new_page: SettingsPage) -> None:
    page = new_page
    page.activateWindow()
    page.form.rows["data.max_length"].editor.setFocus()
    qtbot.waitUntil(lambda: "data.max_length" in page.help.facts.text(), timeout=1000)
    assert "131072" in page.help.facts.text()


def test_text_from_outside_is_never_markup(new_page: SettingsPage, tmp_path: Path) -> None:
    page = new_page
    file = tmp_path / "<b>bold</b>.yaml"
    page.load_file(file)
    page.apply_changes({"model.path": "<img src='file:///etc/passwd'>"})
    # A chart's readings are the program's own markup and quote no setting.
    readings = [chart._legend for chart in page.findChildren(LineChart)]
    assert all("<img" not in label.text() for label in readings)
    labels = [label for label in page.findChildren(QLabel) if label not in readings]
    assert any("<img" in label.text() for label in labels)
    assert all(label.textFormat() is Qt.TextFormat.PlainText for label in labels)


def test_every_editor_has_a_name_for_screen_readers(page: SettingsPage) -> None:
    for row in page.form.rows.values():
        widget = row.editor.focusProxy()
        assert widget is not None
        assert widget.accessibleName()


def test_a_model_file_cannot_put_markup_into_the_tooltip(page: SettingsPage, model_folder: Path) -> None:
    file = model_folder / "config.json"
    file.write_text(file.read_text().replace('"phi3"', '"<img src=x>"'), encoding="utf-8")
    page.apply_changes({"model.path": str(model_folder)})
    assert "&lt;img src=x&gt;" in page.budget.bar.toolTip()
    assert "<img" not in page.budget.bar.toolTip()


def test_one_check_of_the_form_is_far_shorter_than_the_debounce(page: SettingsPage) -> None:
    import time

    times = []
    for length in range(500, 520):
        page.form.rows["data.max_length"].set_value(length)
        start = time.perf_counter()
        page._check()
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.1


def test_what_a_suggestion_changed_can_be_taken_back(
    qtbot: QtBot, page: SettingsPage, too_large: Config
) -> None:
    page.set_config(too_large)
    assert page.budget.undo.isHidden()
    qtbot.mouseClick(page.budget.apply, Qt.MouseButton.LeftButton)
    assert page.config() != too_large
    assert not page.budget.undo.isHidden()
    qtbot.mouseClick(page.budget.undo, Qt.MouseButton.LeftButton)
    assert page.config() == too_large
    assert page.budget.undo.isHidden()
    qtbot.mouseClick(page.budget.apply, Qt.MouseButton.LeftButton)
    type_into(qtbot, page, "data.max_length", "256")
    assert page.config() is not None
    assert page.budget.undo.isHidden(), "something else was changed since"


def test_the_longest_sequence_is_said_once_nobody_types(
    qtbot: QtBot, page: SettingsPage, too_large: Config
) -> None:
    page.set_config(too_large)
    assert page.budget.longest.isHidden()
    qtbot.waitUntil(lambda: not page.budget.longest.isHidden(), timeout=5000)
    assert "tokens" in page.budget.longest.text()


def test_earlier_estimates_are_shown_with_how_far_they_were_off(
    qtbot: QtBot, page: SettingsPage, fitting: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    page.set_config(fitting)
    assert page.budget.errors.isHidden()
    for measured in (4_000_000_000, 4_100_000_000):
        remember(
            Finished("a card", "2026-11-24T00:00:00+00:00", "my <b>run</b>", 4_041_000_000, 1, measured, True)
        )
    page.set_config(fitting)
    assert not page.budget.errors.isHidden()
    assert "-1.4 % to +1.0 %" in page.budget.errors.sentence.text()
    assert "my &lt;b&gt;run" in page.budget.errors.strip.toolTip()


def test_rows_that_are_not_there_are_told_beside_their_field(
    page: SettingsPage, fitting: Config, qtbot: QtBot, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    train, held_out = page.form.rows["data.train"], page.form.rows["data.validation"]
    type_into(qtbot, page, "data.train", str(rows))
    qtbot.waitUntil(train.error.isVisible, timeout=3000)
    assert train.error.text() == f"There is no file {rows}. Check the path of the rows."
    assert page.can_start()[0], "it may be there by then"
    rows.write_text(" \n\n")
    page.hide()
    page.show()
    qtbot.waitUntil(lambda: train.error.text() == f"{rows} is empty. Choose a file with rows.", timeout=3000)
    rows.write_text('{"prompt": "a", "response": "b"}\n')
    page._rows.look(page.config(), seen=True, again=True)
    qtbot.waitUntil(lambda: not train.error.isVisible(), timeout=3000)
    page._put({"data.validation": str(tmp_path)})
    qtbot.waitUntil(held_out.error.isVisible, timeout=3000)
    assert "holds no file for the split" in held_out.error.text()
    page.set_config(fitting)
    assert not held_out.error.isVisible(), "at once: other rows are named"


def test_a_share_that_does_not_answer_stops_nobody(
    page: SettingsPage, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, asked = threading.Event(), threading.Event()

    def hang(*_source: object) -> None:
        asked.set()
        hangs.wait(20)

    monkeypatch.setattr("so8t_gui.forms.source_check.check_source", hang)
    type_into(qtbot, page, "data.train", "/mnt/gone/rows.jsonl")
    qtbot.waitUntil(asked.is_set, timeout=3000)
    type_into(qtbot, page, "lora.r", "7")
    config = page.config()
    assert config is not None
    assert config.lora.r == 7
    monkeypatch.undo()
    type_into(qtbot, page, "data.train", "/mnt/none.jsonl")
    error = page.form.rows["data.train"].error
    qtbot.waitUntil(error.isVisible, timeout=3000)
    hangs.set()
    assert "/mnt/none.jsonl" in error.text()
