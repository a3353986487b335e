"""An evaluation's report in the window: what got worse first, then tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import (
    QAbstractItemView,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPushButton,
    QScrollArea,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.evaluation.report_pages import TITLES, Table, sections, verdicts
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_gui import theme
from so8t_gui.alignment import LEFT, RIGHT
from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.charts.report_charts import IntervalChart, ReliabilityChart

LARGEST = 20_000_000


def _label(text: str, name: str = "") -> QLabel:
    label = QLabel(visible(text, 2000))
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    if name:
        label.setObjectName(name)
    return label


class ReportView(QScrollArea):
    """Reads ``report.json`` of an evaluation's folder, and shows the files that lie beside it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setAccessibleName(_("Evaluation report"))
        self.viewport().setAutoFillBackground(False)
        self._shown: tuple[Path, int] | None = None
        self._folder: Path | None = None

    def load(self, folder: Path | None) -> bool:
        """Show the report in ``folder``; False, and nothing shown, where there is none."""
        file = folder / "report.json" if folder is not None else None
        try:
            stamp = file.stat() if file is not None else None
        except OSError:
            stamp = None
        if file is None or stamp is None or stamp.st_size > LARGEST:
            self._shown, self._folder = None, None
            self.setWidget(QWidget())
            return False
        if self._shown == (file, stamp.st_mtime_ns):
            return True
        self._shown, self._folder = (file, stamp.st_mtime_ns), folder
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            page = self._page(report)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            page = QWidget()
            reason = {"path": str(file), "reason": f"{type(error).__name__} {error}"}
            QVBoxLayout(page).addWidget(
                _label(_("The report %(path)s cannot be read: %(reason)s.") % reason),
                0,
                Qt.AlignmentFlag.AlignTop,
            )
        self.setWidget(page)
        page.setAutoFillBackground(False)
        return True

    def _page(self, report: dict[str, Any]) -> QWidget:
        page = QWidget()
        layout = QVBoxLayout(page)
        layout.setContentsMargins(2, 8, 10, 8)
        layout.setSpacing(10)
        layout.addLayout(self._head(report))
        layout.addWidget(self._verdicts(report))
        for title, text, table, picture in sections(report):
            layout.addWidget(self._card(report, title, text, table, picture))
        layout.addStretch(1)
        return page

    def _head(self, report: dict[str, Any]) -> QHBoxLayout:
        row = QHBoxLayout()
        row.addWidget(_label(_("Evaluation of %(run)s") % {"run": report.get("run", "")}, "title"), 1)
        assert self._folder is not None
        page = self._folder / "report.html"
        self.browse = QPushButton(_("Open as a web page"))
        self.browse.setEnabled(page.is_file())
        self.browse.clicked.connect(lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(page))))
        text = self._folder / "report.md"
        self.copy = QPushButton(_("Copy as Markdown"))
        self.copy.setEnabled(text.is_file())
        self.copy.clicked.connect(lambda: self._copy(text))
        row.addWidget(self.copy)
        row.addWidget(self.browse)
        return row

    @staticmethod
    def _copy(file: Path) -> None:
        QGuiApplication.clipboard().setText(file.read_text(encoding="utf-8", errors="replace"))

    @staticmethod
    def _verdicts(report: dict[str, Any]) -> QWidget:
        """Regressions first, told apart by sign and weight as well as by colour."""
        card = QFrame()
        card.setObjectName("card")
        layout = QVBoxLayout(card)
        layout.setContentsMargins(10, 8, 10, 8)
        judged = [entry["better"] for entry in report["comparison"].values()]
        worse, better = judged.count(False), judged.count(True)
        for n, sentence in enumerate(verdicts(report)):
            label = _label(f"{'▼' if n < worse else '▲' if better else '■'} {sentence}")
            role = "bad" if n < worse else "good" if better else "muted"
            weight = "600" if n < worse else "400"
            label.setStyleSheet(f"color: {theme.current()[role]}; font-weight: {weight};")
            layout.addWidget(label)
        return card

    def _card(
        self, report: dict[str, Any], title: str, text: str, table: Table | None, picture: str
    ) -> QFrame:
        card = QFrame()
        card.setObjectName("card")
        layout = QVBoxLayout(card)
        layout.setContentsMargins(10, 8, 10, 10)
        layout.addWidget(_label(title, "title"))
        if text:
            layout.addWidget(_label(text, "muted"))
        shown = self._picture(report, picture)
        if isinstance(shown, MatrixView):
            layout.addWidget(shown)  # the picture holds the table's numbers
            return card
        if table is not None:
            layout.addWidget(_table(title, table))
        if shown is not None:
            layout.addWidget(shown)
        return card

    @staticmethod
    def _picture(report: dict[str, Any], name: str) -> QWidget | None:
        four = report["four_class"]
        if name == "comparison.svg":
            rows = [
                (_(TITLES[key]), entry["base"] or {}, entry["tuned"] or {})
                for key, entry in report["comparison"].items()
                if key != "perplexity"  # another unit; it stands in the table
            ]
            chart = IntervalChart()
            chart.set_rows(rows)
            return chart
        if name == "confusion.svg" and four:
            matrix = MatrixView(
                _("Confusion: rows are true, columns are predicted"),
                diverging=False, numbers=True, labels=list(four["per_class"]),
            )  # fmt: skip
            matrix.set_matrix(np.array(four["confusion"], dtype=np.float64))
            matrix.setFixedHeight(250)
            return matrix
        if name == "reliability.svg" and four and four["calibration"]["bins"]:
            reliability = ReliabilityChart()
            reliability.set_bins(four["calibration"]["bins"])
            return reliability
        return None


def _table(title: str, table: Table) -> QTableWidget:
    head, rows = table
    view = QTableWidget(len(rows), len(head))
    view.setAccessibleName(title)
    view.setHorizontalHeaderLabels([visible(text, 200) for text in head])
    view.verticalHeader().hide()
    view.verticalHeader().setDefaultSectionSize(view.fontMetrics().height() + 8)
    view.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
    view.setSelectionMode(QAbstractItemView.SelectionMode.ContiguousSelection)
    view.setAlternatingRowColors(True)
    view.setShowGrid(False)
    view.setFrameShape(QFrame.Shape.NoFrame)
    view.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    for i, row in enumerate(rows):
        for j, text in enumerate(row):
            item = QTableWidgetItem(visible(text, 300))
            if j:
                item.setTextAlignment(RIGHT)
            view.setItem(i, j, item)
    header = view.horizontalHeader()
    header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
    header.setDefaultAlignment(RIGHT)
    first = view.horizontalHeaderItem(0)
    if first is not None:
        first.setTextAlignment(LEFT)
    height = header.sizeHint().height() + len(rows) * view.verticalHeader().defaultSectionSize()
    view.setFixedHeight(height + 2 * view.frameWidth() + view.horizontalScrollBar().sizeHint().height())
    return view
