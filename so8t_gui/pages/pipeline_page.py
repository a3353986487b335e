"""The pipeline page: the graph with live state, what each step gave, the review, and the buttons."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.config.loading import pipeline_paths
from so8t_engine.i18n import _
from so8t_engine.pipeline.plan import size_text
from so8t_engine.plain_text import visible
from so8t_gui.forms.check_box import CheckBox
from so8t_gui.models.pipeline_model import StepView
from so8t_gui.pipeline_controller import PipelineController
from so8t_gui.widgets.facts_tree import FactsTree
from so8t_gui.widgets.message_bar import MessageBar
from so8t_gui.widgets.report_view import ReportView
from so8t_gui.widgets.review_panel import ReviewPanel
from so8t_gui.widgets.step_graph import StepGraph, duration


class PipelinePage(QWidget):
    """A view of a `PipelineController`, which lives on when the page is rebuilt."""

    def __init__(self, controller: PipelineController, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.controller = controller
        self.message = MessageBar()
        self.graph = StepGraph(controller.model)
        self.facts = FactsTree()
        self.log = QPlainTextEdit()
        self.log.setReadOnly(True)
        self.log.setAccessibleName(_("Messages of the step"))
        self.log.setPlaceholderText(_("This step has said nothing yet."))
        self.review = ReviewPanel()
        self.review.failed.connect(self._review_failed)
        self.report = ReportView()
        self.heading = QLabel()
        self.heading.setObjectName("title")
        self.heading.setTextFormat(Qt.TextFormat.PlainText)
        self.why = QLabel()
        self.why.setObjectName("muted")
        self.why.setTextFormat(Qt.TextFormat.PlainText)
        self.why.setWordWrap(True)
        self.tabs = QTabWidget()
        self.tabs.addTab(self.facts, _("Output"))
        self.tabs.addTab(self.log, _("Messages"))
        self.tabs.addTab(self.review, _("Review"))
        self.tabs.addTab(self.report, _("Report"))
        title = QLabel(_("Pipeline"))
        title.setObjectName("pageTitle")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 10, 12, 8)
        layout.setSpacing(8)
        layout.addWidget(title)
        layout.addLayout(self._make_file_row())
        layout.addWidget(self.message)
        layout.addWidget(self.graph)
        layout.addLayout(self._make_buttons())
        layout.addWidget(self.heading)
        layout.addWidget(self.why)
        layout.addWidget(self.tabs, 1)
        self.graph.chosen.connect(self._show_step)
        self.graph.activated.connect(lambda _name: self.tabs.setFocus())
        controller.changed.connect(self.refresh)
        controller.told.connect(self.message.show_message)
        controller.ended.connect(self._on_end)
        if controller.config is None:
            controller.open(controller.file)
        else:
            controller.refresh_plan()  # its reasons are in the language of the window
        self.refresh()

    def _make_file_row(self) -> QHBoxLayout:
        self.file = QComboBox()
        self.file.setEditable(True)
        self.file.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.file.setAccessibleName(_("Pipeline configuration"))
        for name in pipeline_paths():
            self.file.addItem(name)
        self.file.setCurrentText(str(self.controller.file))
        self.file.activated.connect(lambda _row: self._open())
        line = self.file.lineEdit()
        if line is not None:
            line.editingFinished.connect(self._open)
        browse = QPushButton(_("&Browse…"))
        browse.clicked.connect(self._browse)
        self.place = QLabel()
        self.place.setObjectName("muted")
        self.place.setTextFormat(Qt.TextFormat.PlainText)
        label = QLabel(_("Configuration"))
        label.setBuddy(self.file)
        row = QHBoxLayout()
        row.addWidget(label)
        row.addWidget(self.file, 1)
        row.addWidget(browse)
        row.addWidget(self.place, 1)
        return row

    def _make_buttons(self) -> QHBoxLayout:
        self.run_button = QPushButton(_("&Run"))
        self.run_button.setProperty("role", "primary")
        self.run_button.setToolTip(_("Does what has to be done; steps that are up to date are skipped."))
        self.run_button.clicked.connect(lambda: self._start())
        self.from_button = QPushButton(_("Run &from this step"))
        self.from_button.setToolTip(_("Does the chosen step and all after it again."))
        self.from_button.clicked.connect(lambda: self._start(from_=self.graph.selected))
        self.only_button = QPushButton(_("&Only this step"))
        self.only_button.setToolTip(_("Does the chosen step again, and no other."))
        self.only_button.clicked.connect(lambda: self._start(only=self.graph.selected))
        self.stop_button = QPushButton(_("&Stop"))
        self.stop_button.setProperty("role", "danger")
        self.stop_button.setToolTip(_("What is done stays; the next call goes on from there."))
        self.stop_button.clicked.connect(self._stop)
        self.unattended = CheckBox(_("&Unattended"))
        self.unattended.setChecked(self.controller.unattended)
        self.unattended.setToolTip(
            _("The pipeline goes on when this window is closed, and its end is notified.")
        )
        self.unattended.toggled.connect(self._set_unattended)
        self.state = QLabel()
        self.state.setTextFormat(Qt.TextFormat.PlainText)
        row = QHBoxLayout()
        for widget in (
            self.run_button,
            self.from_button,
            self.only_button,
            self.stop_button,
            self.unattended,
        ):
            row.addWidget(widget)
        row.addStretch(1)
        row.addWidget(self.state)
        return row

    def _set_unattended(self, on: bool) -> None:
        self.controller.unattended = on

    def _open(self) -> None:
        text = self.file.currentText().strip()
        if text and Path(text) != self.controller.file:
            self.message.hide()
            if not self.controller.open(Path(text)):
                self.file.setCurrentText(str(self.controller.file))
            self.refresh()

    def _browse(self) -> None:
        chosen, _filter = QFileDialog.getOpenFileName(
            self, _("Pipeline configuration"), str(Path.cwd()), _("YAML files (*.yaml *.yml)")
        )
        if chosen:
            self.file.setCurrentText(chosen)
            self._open()

    def _start(self, from_: str | None = None, only: str | None = None) -> None:
        self.message.hide()
        self.controller.start(from_, only)

    def _stop(self) -> None:
        self.controller.stop()
        self.stop_button.setEnabled(False)
        self.state.setText(_("stopping…"))

    def _review_failed(self, reason: str) -> None:
        self.message.show_message(
            "error",
            _("The label could not be saved: %(reason)s.") % {"reason": reason},
            _("Free some disk space."),
        )

    def _on_end(self, status: str) -> None:
        if status == "finished":
            self.message.show_message("good", _("The pipeline has finished."))
        elif status == "stopped":
            self.message.show_message(
                "warning", _("The pipeline was stopped."), _("Run goes on where it broke off.")
            )

    def refresh(self) -> None:
        """Show the model as it is now."""
        model, live = self.controller.model, self.controller.live
        self.graph.set_model(model)
        usable = self.controller.config is not None and not live
        for button in (self.run_button, self.from_button, self.only_button):
            button.setEnabled(usable)
        self.file.setEnabled(not live)
        self.stop_button.setEnabled(live)
        current = model.current
        if current is not None:
            self.state.setText(_("running: %(step)s") % {"step": _(current.title)})
        elif model.seconds is not None and not live:
            self.state.setText(_("last call: %(time)s") % {"time": duration(model.seconds)})
        else:
            self.state.setText("")
        config = self.controller.config
        self.place.setText(visible(str(config.work), 300) if config is not None else "")
        self.place.setToolTip(self.place.text())
        self._show_step(self.graph.selected)

    def _show_step(self, name: str) -> None:
        view = self.controller.model.steps[name]
        self.heading.setText(f"{_(view.title)}: {_(view.status_name())}")
        self.why.setText(visible(self._why(view), 1000))
        self.facts.show_facts(view.facts)
        text = "\n".join(visible(message, 2000) for _kind, message in view.messages)
        if self.log.toPlainText() != text:
            self.log.setPlainText(text)
        label = _("Messages (%(count)d)") % {"count": len(view.messages)} if view.messages else _("Messages")
        self.tabs.setTabText(1, label)
        reviewing = name == "preprocess"
        self.tabs.setTabVisible(2, reviewing)
        config = self.controller.config
        evaluation = config.work / "steps" / "6-evaluate" / "output" if config is not None else None
        self.tabs.setTabVisible(3, name == "evaluate" and self.report.load(evaluation))
        if reviewing and config is not None:
            self.review.load(
                config.work, config.work / "steps" / "2-preprocess" / "output" / "review.parquet"
            )

    @staticmethod
    def _why(view: StepView) -> str:
        parts = [view.reason] if view.reason else []
        if view.what and view.progress is not None and view.status in {"running", "retrying"}:
            done, of = view.progress
            parts.append(f"{view.what}: {done:,}" + (f" / {of:,}" if of else ""))
        if view.attempt > 1:
            parts.append(_("attempt %(number)d") % {"number": view.attempt})
        if view.status == "planned" and view.expected_s is not None:
            kind = _("measured") if view.measured else _("estimated")
            parts.append(
                _("takes about %(time)s (%(kind)s)") % {"time": duration(view.expected_s), "kind": kind}
            )
        if view.status == "planned" and view.stale:
            parts.append(_("what is shown is from an earlier call"))
        if view.status == "planned" and view.memory_bytes is not None:
            parts.append(_("%(size)s of memory") % {"size": size_text(view.memory_bytes)})
        if view.status == "planned" and view.disk_bytes is not None:
            parts.append(_("%(size)s on disk") % {"size": size_text(view.disk_bytes)})
        return " · ".join(parts)

    def disconnect_controller(self) -> None:
        """Before the page is thrown away."""
        self.controller.changed.disconnect(self.refresh)
        self.controller.told.disconnect(self.message.show_message)
        self.controller.ended.disconnect(self._on_end)
        self.review.shut_down()
