"""Runs beside each other: curves over each other, settings that differ, figures that came out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QHBoxLayout,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QTabWidget,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.config import Config
from so8t_engine.errors import SO8TError
from so8t_engine.history.compare import differences, flat, results
from so8t_engine.i18n import _
from so8t_engine.training.run_directory import RunDirectory
from so8t_gui import theme
from so8t_gui.alignment import LEFT
from so8t_gui.charts.compare_board import CompareBoard, OverlaidRun
from so8t_gui.models.names import cell, result_name
from so8t_gui.models.run_model import RunModel
from so8t_gui.plain import plain_tooltip
from so8t_gui.preferences import Preferences
from so8t_gui.widgets.empty_note import EmptyNote


def _table(name: str) -> QTableWidget:
    table = QTableWidget(0, 0)
    table.setAccessibleName(name)
    table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    table.setAlternatingRowColors(True)
    table.setShowGrid(False)
    table.setTabKeyNavigation(False)
    table.verticalHeader().hide()
    table.horizontalHeader().setDefaultAlignment(LEFT)
    return table


class CompareView(QWidget):
    """Three tabs about the same runs."""

    def __init__(self, preferences: Preferences | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.board = CompareBoard(preferences)
        self.settings, self.results = _table(_("Settings that differ")), _table(_("Results"))
        EmptyNote(self.settings, _("No setting differs."))
        EmptyNote(self.results, _("None of these runs has ended with results."))
        self.against = QComboBox()
        self.against.setAccessibleName(_("Compared with"))
        self.against.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.against.currentIndexChanged.connect(self._fill_settings)
        self.problem = QLabel()
        self.problem.setTextFormat(Qt.TextFormat.PlainText)
        self.problem.setWordWrap(True)
        self.problem.setObjectName("muted")
        label = QLabel(_("Compared &with"))
        label.setBuddy(self.against)
        head = QHBoxLayout()
        head.addWidget(label)
        head.addWidget(self.against)
        head.addWidget(self.problem, 1)
        settings = QWidget()
        column = QVBoxLayout(settings)
        column.setContentsMargins(0, 8, 0, 0)
        column.addLayout(head)
        column.addWidget(self.settings, 1)
        self.tabs = QTabWidget()
        self.tabs.setDocumentMode(True)
        self.tabs.setAccessibleName(_("Views of the comparison"))
        self.tabs.tabBar().setAccessibleName(_("Views of the comparison"))
        self.tabs.tabBar().setDrawBase(False)
        for widget, title in (
            (self.board, _("Curves")),
            (settings, _("Settings")),
            (self.results, _("Results")),
        ):
            self.tabs.addTab(widget, title)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.tabs)
        self._configs: list[tuple[str, Config]] = []

    def show_runs(self, runs: Sequence[tuple[Path, RunModel]]) -> None:
        """Compare these; a run whose settings cannot be read is named and left out of that table."""
        self.board.show_runs([OverlaidRun(path.name, model) for path, model in runs])
        self._configs, problems = [], []
        for path, _model in runs:
            try:
                self._configs.append((path.name, RunDirectory(path).config()))
            except SO8TError as error:
                problems.append(str(error))
        self.problem.setText(" ".join(problems))
        self.against.blockSignals(True)
        self.against.clear()
        self.against.addItem(_("each other"), None)
        self.against.addItem(_("the defaults"), Config())
        for name, config in self._configs:
            self.against.addItem(name, config)
        self.against.blockSignals(False)
        self._fill_settings()
        self._fill_results([path for path, _model in runs])

    def _fill_settings(self) -> None:
        base = self.against.currentData()
        names = [name for name, _config in self._configs]
        configs = [config for _name, config in self._configs]
        if isinstance(base, Config):
            rows = differences([base, *configs])
            names = [self.against.currentText(), *names]
        else:
            rows = differences(configs) if configs else []
        self.settings.setColumnCount(len(names) + 1)
        self.settings.setHorizontalHeaderLabels([_("Setting"), *names])
        self.settings.setRowCount(len(rows))
        for row, one in enumerate(rows):
            self.settings.setItem(row, 0, QTableWidgetItem(one.path))
            for column, value in enumerate(one.values, start=1):
                item = QTableWidgetItem(cell(value))
                if value != one.values[0]:
                    # In bold as well, for whom colours say nothing.
                    font = item.font()
                    font.setBold(True)
                    item.setFont(font)
                    item.setForeground(theme.current().colour("accent"))
                self.settings.setItem(row, column, item)
        self.settings.resizeColumnsToContents()

    def _fill_results(self, paths: Sequence[Path]) -> None:
        tables = [flat(results(RunDirectory(path))) for path in paths]
        names = [
            name
            for name in dict.fromkeys(name for table in tables for name in table)
            if any(isinstance(table.get(name), int | float | str) for table in tables)
        ]
        self.results.setColumnCount(len(paths) + 1)
        self.results.setHorizontalHeaderLabels([_("Measure"), *(path.name for path in paths)])
        self.results.setRowCount(len(names))
        for row, name in enumerate(names):
            measure = QTableWidgetItem(result_name(name))
            measure.setToolTip(plain_tooltip(name))
            self.results.setItem(row, 0, measure)
            for column, table in enumerate(tables, start=1):
                self.results.setItem(row, column, QTableWidgetItem(cell(table.get(name), name)))
        self.results.resizeColumnsToContents()

    def dispose(self) -> None:
        """Before the view is dropped."""
        for chart in self.board.charts:
            chart.dispose()
