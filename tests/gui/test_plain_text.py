"""Text from outside is never taken for markup, wherever the window shows it: every widget is looked at."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QModelIndex
from PySide6.QtGui import Qt
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QComboBox,
    QLabel,
    QListView,
    QMessageBox,
    QTextEdit,
    QWidget,
)
from pytestqt.qtbot import QtBot
from recorded_runs import START, evaluation, gate, rotations, state, step

from so8t_engine.config import Config
from so8t_engine.training.events import (
    CheckpointEvent,
    EndEvent,
    ErrorEvent,
    Event,
    InfoEvent,
    ProgressEvent,
    RotationEvent,
    SampleEvent,
    WarningEvent,
)
from so8t_engine.training.interrupted import Interrupted
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from so8t_gui.main_window import MainWindow
from so8t_gui.widgets.interrupted_dialog import InterruptedDialog

#: A picture that would be loaded, and a mark to find the text by.
EVIL = "<img src='file:///etc/hostname'><b>EVIL</b>"
MARK = "EVIL"


def _events() -> list[Event]:
    one = step(1, 4, START + 3)
    terms = {EVIL: 1.0, "lm": 2.0}
    return [
        state(State.IDLE, State.LOADING, START),
        InfoEvent(facts={"device": EVIL, EVIL: EVIL, "lora_names": [EVIL]}, time=START + 1),
        state(State.LOADING, State.RUNNING, START + 2, reason=EVIL),
        evaluation(0, START + 2).model_copy(
            update={"split": EVIL, "metrics": {EVIL: 0.5, "task_accuracy": 0.1}}
        ),
        one.model_copy(update={"terms": terms, "raw": terms}),
        gate(1, 4, START + 3).model_copy(update={"phase": EVIL}),
        CheckpointEvent(step=1, path=EVIL, bytes=1, sha256=EVIL, reason=EVIL, time=START + 4),
        SampleEvent(step=1, prompt=EVIL, text=EVIL, time=START + 5),
        WarningEvent(kind=EVIL, sentence=EVIL, mend=EVIL, time=START + 6),
        ProgressEvent(what=EVIL, done=1, of=2, time=START + 7),
        ErrorEvent(kind=EVIL, sentence=EVIL, mend=EVIL, time=START + 8),
        state(State.RUNNING, State.FAILED, START + 9, reason=EVIL),
        EndEvent(status="failed", step=1, seconds=1.0, summary={EVIL: EVIL}, time=START + 9),
    ]


@pytest.fixture
def evil_run(demo_config: Config, tmp_path: Path) -> RunDirectory:
    run = RunDirectory.create(demo_config, tmp_path / "runs" / "<b>EVIL<b>")
    writer = EventWriter(run)
    for event in _events():
        writer.write(event)
    writer.close()
    (run.checkpoints / "step-00000001").mkdir()
    return run


def _could_be_markup(text: str) -> bool:
    """Whether a widget that guesses would take the text for markup with the mark's own tags in it."""
    return MARK in text and ("<b>" in text or "<img" in text) and Qt.mightBeRichText(text)


def _cells(view: QAbstractItemView, role: Qt.ItemDataRole) -> Iterator[str]:
    model = view.model()
    for row in range(model.rowCount(QModelIndex())):
        # A list's model has one column, and keeps its count to itself.
        for column in range(1 if isinstance(view, QListView) else model.columnCount(QModelIndex())):
            found = model.index(row, column).data(role)
            if found is not None:
                yield str(found)


def _rendered(root: QWidget) -> list[str]:
    """Every place where outside text would be rendered as markup."""
    found: list[str] = []
    for widget in [root, *root.findChildren(QWidget)]:
        where = f"{type(widget).__name__} {widget.objectName()}"
        for name, text in (("tooltip", widget.toolTip()), ("what's this", widget.whatsThis())):
            if _could_be_markup(text):
                found.append(f"{where} {name}: {text}")
        if isinstance(widget, QLabel) and MARK in widget.text():
            escaped = html.escape(EVIL)[:4] in widget.text()
            if widget.textFormat() is not Qt.TextFormat.PlainText and not escaped:
                found.append(f"{where}: {widget.text()}")
        if isinstance(widget, QTextEdit):
            found.append(f"{where}: a text field with markup")
        if isinstance(widget, QMessageBox) and widget.textFormat() is not Qt.TextFormat.PlainText:
            found.append(f"{where}: a message box that guesses")
        if isinstance(widget, QAbstractItemView) and widget.model() is not None:
            tips = _cells(widget, Qt.ItemDataRole.ToolTipRole)
            found += [f"{where} cell: {tip}" for tip in tips if _could_be_markup(tip)]
    return found


def _shown(root: QWidget) -> int:
    """Widgets that show the mark: the test must have something to look at."""
    count = 0
    for widget in root.findChildren(QWidget):
        if isinstance(widget, QLabel | QAbstractButton):
            count += MARK in widget.text()
        elif isinstance(widget, QComboBox):
            count += any(MARK in widget.itemText(i) for i in range(widget.count()))
        elif isinstance(widget, QAbstractItemView) and widget.model() is not None:
            count += any(MARK in text for text in _cells(widget, Qt.ItemDataRole.DisplayRole))
    return count


def test_a_run_from_a_stranger_is_shown_as_plain_text(
    window: MainWindow, qtbot: QtBot, evil_run: RunDirectory
) -> None:
    window.attach(evil_run.path)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=10_000)
    tabs = window.run_page.view.tabs
    shown = 0
    for index in range(tabs.count()):
        tabs.setCurrentIndex(index)
        qtbot.wait(150)
        shown += _shown(window)
        assert _rendered(window) == []
    assert window.run_page.message.isVisible()
    window.show_page("history")
    qtbot.waitUntil(lambda: window.history_page.table_model.rowCount() == 1, timeout=5000)
    shown += _shown(window)
    assert _rendered(window) == []
    window.history_page.open_selected()
    qtbot.waitUntil(lambda: window.history_page.opened is not None, timeout=5000)
    assert _rendered(window) == []
    assert shown >= 6, "the run's texts are on the screen"
    assert MARK in window.run_page.view.log.text.toPlainText()


def test_settings_from_a_stranger_are_shown_as_plain_text(
    window: MainWindow, qtbot: QtBot, tmp_path: Path
) -> None:
    file = tmp_path / "<b>EVIL<b>.yaml"
    file.write_text(f'model:\n  path: "{EVIL}"\ndata:\n  train: "{EVIL}"\n', encoding="utf-8")
    window.show_page("settings")
    window.settings_page.load_file(file)
    qtbot.wait(400)
    assert _shown(window.settings_page) >= 1
    assert _rendered(window) == []
    file.write_text(f'"{EVIL}": 1\n', encoding="utf-8")
    window.settings_page.load_file(file)
    qtbot.wait(100)
    assert _rendered(window) == []
    window.open_run(tmp_path / EVIL.replace("/", "-"))
    assert _rendered(window) == []


def test_dialogs_show_names_as_plain_text(window: MainWindow, qtbot: QtBot) -> None:
    runs = [
        Interrupted(Path("/x") / f"<b>EVIL{n}", True, step=3, of=9, saved_step=1, lost_s=5.0, heard=START)
        for n in range(2)
    ]
    dialog = InterruptedDialog(runs, window)
    qtbot.addWidget(dialog)
    dialog.show()
    assert _shown(dialog) >= 1
    assert _rendered(dialog) == []
    dialog.close()


def test_the_looking_finds_what_it_is_for(qtbot: QtBot) -> None:
    label = QLabel(EVIL)
    qtbot.addWidget(label)
    assert _rendered(label)
    label.setTextFormat(Qt.TextFormat.PlainText)
    assert _rendered(label) == []
    label.setToolTip(EVIL)
    assert _rendered(label)


def test_a_snapshot_outside_the_runs_folder_is_not_read(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    event = rotations_event(tmp_path, 3)
    run = RunDirectory.create(demo_config, tmp_path / "runs" / "one")
    writer = EventWriter(run)
    writer.write(state(State.IDLE, State.LOADING, START))
    writer.write(event.model_copy(update={"file": f"../../{event.file}"}))
    writer.write(state(State.LOADING, State.FAILED, START + 1))
    writer.write(EndEvent(status="failed", step=0, seconds=0.0))
    writer.close()
    window.attach(run.path)
    qtbot.waitUntil(lambda: not window.controller.live, timeout=5000)
    window.run_page.view.tabs.setCurrentIndex(1)
    panel = window.run_page.view.rotations
    qtbot.waitUntil(lambda: "leads out of the folder" in panel.reason.text(), timeout=5000)


def rotations_event(folder: Path, number: int) -> RotationEvent:
    """A stored snapshot that lies outside the run."""
    (folder / "rotations").mkdir()
    return rotations(folder, number)
