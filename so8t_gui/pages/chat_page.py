"""Talking to a finished run: base against tuned, heads and gate of each answer, adapter and g to try."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QKeySequence, QShortcut, QShowEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.errors import SO8TError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.serving.chat_budget import ChatBudget, chat_budget, run_config
from so8t_gui.charts.line_chart import LineChart, Series
from so8t_gui.chat_runner import ChatRunner
from so8t_gui.models.buffers import Columns
from so8t_gui.preferences import Preferences
from so8t_gui.run_controller import RunController
from so8t_gui.theme import current
from so8t_gui.widgets.answer_view import AnswerView
from so8t_gui.widgets.chat_options import ChatOptions
from so8t_gui.widgets.heads_view import HeadsView, plain
from so8t_gui.widgets.kept_questions import KeptQuestions
from so8t_gui.widgets.message_bar import MessageBar

LOOK_EVERY_MS = 1500
DRAW_MS = 100


class ChatPage(QWidget):
    """The model lives in a child process that this page starts and ends."""

    def __init__(
        self,
        runner: ChatRunner,
        controller: RunController,
        preferences: Preferences,
        folder: Path,
        looked_at: Callable[[], Path | None] = lambda: None,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._looked_at = looked_at
        self._runner, self._controller, self._preferences = runner, controller, preferences
        self._folder = folder
        self._answer: dict[str, Any] = {}
        self._effect = Columns("token")
        self._deaf = False
        self.message = MessageBar()
        self._build()
        runner.changed.connect(self._refresh)
        runner.told.connect(self._take)
        runner.failed.connect(self._fail)
        # Tokens come in bursts; a drawing for each would hold the window up.
        self._later = QTimer(self, singleShot=True, interval=DRAW_MS)
        self._later.timeout.connect(self._draw_effect)
        self._timer = QTimer(self)
        self._timer.setInterval(LOOK_EVERY_MS)
        self._timer.timeout.connect(self._look_at_memory)
        self._refresh()

    # Building

    def _build(self) -> None:
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.setSpacing(8)
        layout.addLayout(self._make_top())
        layout.addWidget(self.message)
        self.base = AnswerView(_("Answer of the base model"))
        self.tuned = AnswerView(_("Answer of the tuned model"))
        columns = QGridLayout()
        columns.setHorizontalSpacing(8)
        columns.addWidget(plain(_("Base model"), "title"), 0, 0)
        columns.addWidget(plain(_("Tuned: adapter and gate"), "title"), 0, 1)
        columns.addWidget(self.base, 1, 0)
        columns.addWidget(self.tuned, 1, 1)
        self.heads = HeadsView()
        self.effect = LineChart(_("What the gate does to each token"))
        s = current().series
        self.effect.set_series(
            [Series("shift", _("shift of the hidden state"), s[0]), Series("kl", "KL", s[1])]
        )
        self.effect.set_x("token", _("token"))
        self.effect.set_empty_text(_("Drawn with the tuned model's answer."))
        columns.addWidget(self.heads, 2, 0)
        columns.addWidget(self.effect, 2, 1)
        for view in (self.base, self.tuned):
            view.setMinimumHeight(150)
            view.setPlaceholderText(_("Load a run and ask: the answer appears here."))
        for panel in (self.heads, self.effect):
            panel.setMaximumHeight(230)
        columns.setRowStretch(1, 1)
        columns.setColumnStretch(0, 1)
        columns.setColumnStretch(1, 1)
        layout.addLayout(columns, 1)
        self.options = ChatOptions()
        layout.addWidget(self.options)
        layout.addLayout(self._make_prompt())

    def _make_top(self) -> QHBoxLayout:
        self.runs = QComboBox()
        self.runs.setAccessibleName(_("Run"))
        self.runs.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.runs.setMinimumContentsLength(24)
        self.runs.currentIndexChanged.connect(self._look_at_memory)
        choose = QPushButton(_("Open a run folder…"))
        choose.clicked.connect(self._choose)
        self.load_button = QPushButton(_("Load"))
        self.load_button.setProperty("role", "primary")
        self.load_button.clicked.connect(self._load_or_unload)
        self.memory = plain("", "muted")
        self.memory.setWordWrap(True)
        row = QHBoxLayout()
        label = QLabel(_("&Run"))
        label.setBuddy(self.runs)
        for widget in (label, self.runs, choose, self.load_button):
            row.addWidget(widget)
        row.addWidget(self.memory, 1)
        return row

    def _make_prompt(self) -> QHBoxLayout:
        self.prompt = QPlainTextEdit()
        self.prompt.setAccessibleName(_("Question"))
        self.prompt.setPlaceholderText(_("Question; Ctrl+Return sends it"))
        self.prompt.setMaximumHeight(76)
        self.send = QPushButton(_("Send"))
        self.send.setProperty("role", "primary")
        self.send.clicked.connect(self.ask)
        self.stop = QPushButton(_("Stop"))
        self.stop.clicked.connect(self._runner.stop)
        self.kept = KeptQuestions(self._preferences, lambda: self.prompt.toPlainText().strip())
        self.kept.chosen.connect(self.prompt.setPlainText)
        self.export_button = QPushButton(_("Export…"))
        self.export_button.clicked.connect(self._export_dialog)
        grid = QGridLayout()
        grid.addWidget(self.kept, 0, 0, 2, 1)
        grid.addWidget(self.send, 0, 1, 1, 2)
        grid.addWidget(self.stop, 1, 1)
        grid.addWidget(self.export_button, 1, 2)
        row = QHBoxLayout()
        row.addWidget(self.prompt, 1)
        row.addLayout(grid)
        QShortcut(
            QKeySequence("Ctrl+Return"), self.prompt, self.ask, context=Qt.ShortcutContext.WidgetShortcut
        )
        return row

    # Runs and memory

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._draw_effect()
        self._fill_runs()
        self._timer.start()

    def hideEvent(self, event: Any) -> None:  # noqa: ANN401
        super().hideEvent(event)
        self._timer.stop()

    def set_folder(self, folder: Path) -> None:
        """Offer the finished runs of another folder."""
        self._folder = folder
        if self.isVisible():
            self._fill_runs()

    def _fill_runs(self) -> None:
        first = self._looked_at() if self.runs.currentData() is None else None
        chosen = str(first) if first is not None else self.runs.currentData()
        found = sorted(
            self._folder.glob("*/final/MANIFEST.json"), key=lambda p: p.stat().st_mtime, reverse=True
        )
        paths = [path.parent.parent for path in found[:200]]
        for extra in (self._runner.run, Path(chosen) if chosen else None):
            if extra is not None and extra not in paths and (extra / "final").is_dir():
                paths.insert(0, extra)
        if [self.runs.itemData(i) for i in range(self.runs.count())] != [str(path) for path in paths]:
            self.runs.blockSignals(True)
            self.runs.clear()
            for path in paths:
                self.runs.addItem(path.name, str(path))
            index = self.runs.findData(chosen)
            self.runs.setCurrentIndex(max(index, 0 if paths else -1))
            self.runs.blockSignals(False)
        self._look_at_memory()

    def _choose(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, _("Open a run folder"), str(self._folder))
        if chosen:
            self.choose_run(Path(chosen))

    def choose_run(self, path: Path) -> None:
        """Offer ``path`` and choose it."""
        if not (path / "final" / "MANIFEST.json").is_file():
            self.message.show_message(
                "error",
                _("%(path)s holds no finished run.") % {"path": str(path)},
                _("Let the run end first."),
            )
            return
        if self.runs.findData(str(path)) < 0:
            self.runs.insertItem(0, path.name, str(path))
        self.runs.setCurrentIndex(self.runs.findData(str(path)))

    def _budget(self) -> ChatBudget | None:
        chosen = self.runs.currentData()
        if not chosen:
            return None
        running = self._controller.config if self._controller.live else None
        last = self._controller.model.last_memory
        used = (last.process_rss or 0) if last is not None else 0
        if last is not None and last.reserved is not None:
            used = last.reserved
        return chat_budget(run_config(Path(chosen)), running, used)

    def _look_at_memory(self) -> None:
        if self._runner.alive:
            loaded = self._runner.loaded
            self.memory.setText(
                _("loading…")
                if loaded is None
                else _("%(run)s on %(device)s, trained g = %(g).3f")
                % {"run": loaded["run"], "device": loaded["device"], "g": loaded["g"]}
            )
            self.load_button.setEnabled(True)
            return
        try:
            budget = self._budget()
        except SO8TError as error:
            self.memory.setText(f"{error.sentence} {error.mend}")
            self.load_button.setEnabled(False)
            return
        if budget is None:
            self.memory.setText(_("There is no finished run yet."))
        else:
            self.memory.setText(
                budget.sentence if budget.fits else budget.sentence + " – " + _("too little to load it now")
            )
        self.load_button.setEnabled(budget is not None and budget.fits)

    def _load_or_unload(self) -> None:
        if self._runner.alive:
            self._runner.unload()
            return
        chosen = self.runs.currentData()
        if chosen:
            self.message.hide()
            self._runner.load(Path(chosen))

    def _refresh(self) -> None:
        runner = self._runner
        self.load_button.setText(_("Give memory back") if runner.alive else _("Load"))
        self.runs.setEnabled(not runner.alive)
        self.send.setEnabled(runner.loaded is not None and not runner.busy)
        self.stop.setEnabled(runner.busy)
        self.export_button.setEnabled(bool(self._answer) and not runner.busy)
        self._look_at_memory()

    # Asking

    def ask(self) -> None:
        """Send the question."""
        text = self.prompt.toPlainText().strip()
        if not text or self._runner.loaded is None or self._runner.busy:
            return
        self.message.hide()
        for view in (self.base, self.tuned):
            view.begin()
        self.heads.clear()
        self._effect = Columns("token")
        self.effect.draw(self._effect)
        command = {"prompt": text, **self.options.chosen()}
        self._answer = {"question": text, "settings": command, "heads": None, "base": [], "tuned": []}
        self._runner.ask(**command)

    def _take(self, answer: dict[str, Any]) -> None:
        kind = answer.get("type")
        if kind == "heads":
            self._answer["heads"] = answer
            self.heads.show_heads(answer)
        elif kind == "token":
            side = answer["side"]
            (self.base if side == "base" else self.tuned).add(answer)
            self._answer[side].append(answer)
            if side == "tuned":
                self._effect.append(
                    {"token": len(self._effect) + 1, "shift": answer["shift"], "kl": answer["kl"]}
                )
                if not self._later.isActive():
                    self._later.start()
        elif kind == "error":
            self.message.show_message("error", answer["sentence"], answer["mend"])

    def _draw_effect(self) -> None:
        if self.isVisible():
            self.effect.draw(self._effect)

    def _fail(self, sentence: str) -> None:
        self.message.show_message("error", sentence, _("Load it again; the run's log may tell more."))

    # Answers written to a file

    def _export_dialog(self) -> None:
        name, _filter = QFileDialog.getSaveFileName(
            self, _("Export the answer"), "answer.json", "JSON (*.json)"
        )
        if name:
            self.export(Path(name))

    def export(self, path: Path) -> None:
        """Question, settings, heads and both answers token by token, as JSON."""
        told = dict(self._answer, run=str(self._runner.run or ""))
        for side in ("base", "tuned"):
            told[f"{side}_text"] = "".join(token["text"] for token in self._answer[side])
        try:
            write_atomically(path, json.dumps(told, ensure_ascii=False, indent=1))
        except OSError as error:
            self.message.show_message(
                "error",
                _("%(path)s cannot be written: %(reason)s.") % {"path": str(path), "reason": error.strerror},
                _("Choose another folder."),
            )

    def shut_down(self) -> None:
        """Hear nothing more of the model: this page is being replaced."""
        self._timer.stop()
        self._later.stop()
        if self._deaf:
            return
        self._deaf = True
        self._runner.changed.disconnect(self._refresh)
        self._runner.told.disconnect(self._take)
        self._runner.failed.disconnect(self._fail)
