"""Figures of every series between two places of the horizontal axis."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtWidgets import QAbstractItemView, QHeaderView, QTableWidget, QTableWidgetItem, QWidget

from so8t_engine.i18n import _
from so8t_gui.alignment import LEFT, RIGHT
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.charts.series import format_value


class StatisticsTable(QTableWidget):
    """One row a series."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(0, 8, parent)
        self.setAccessibleName(_("Statistics of the region"))
        titles = (
            _("Chart"),
            _("Series"),
            _("Values"),
            _("Mean"),
            _("Standard deviation"),
            _("Smallest"),
            _("Largest"),
            _("Change"),
        )
        self.setHorizontalHeaderLabels(list(titles))
        self.horizontalHeader().setDefaultAlignment(RIGHT)
        for column in (0, 1):
            title = self.horizontalHeaderItem(column)
            if title is not None:
                title.setTextAlignment(LEFT)
        self.verticalHeader().hide()
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setTabKeyNavigation(False)
        self.setShowGrid(False)
        self.setAlternatingRowColors(True)
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        self.horizontalHeader().setStretchLastSection(True)

    def show_region(self, charts: Iterable[LineChart], low: float, high: float) -> None:
        """Fill the table anew."""
        rows = [(chart.title_text, one) for chart in charts for one in chart.statistics(low, high)]
        self.setRowCount(len(rows))
        for row, (title, one) in enumerate(rows):
            figures = (one.mean, one.deviation, one.smallest, one.largest, one.change)
            cells = (title, one.label, f"{one.count:,}", *map(format_value, figures))
            for column, text in enumerate(cells):
                item = QTableWidgetItem(text)
                if column >= 2:
                    item.setTextAlignment(RIGHT)
                self.setItem(row, column, item)
