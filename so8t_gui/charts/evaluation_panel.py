"""Held-out results: loss and accuracies over steps, the confusion matrix, and the baseline."""

from __future__ import annotations

import numpy as np
from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QAbstractItemView,
    QComboBox,
    QFrame,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_engine.training.events import EvaluationEvent
from so8t_gui import theme
from so8t_gui.alignment import LEFT, RIGHT
from so8t_gui.charts.line_chart import MISSING_TEXT, LineChart, Series
from so8t_gui.charts.matrix_view import MatrixView
from so8t_gui.models.names import METRICS, SPLITS, shown
from so8t_gui.models.run_model import EVAL, RunModel
from so8t_gui.widgets.empty_note import EmptyNote

CLASSES = ("ALLOW", "ESCALATION", "DENY", "REFUSE")
BASELINE = "baseline_"


def _card(title: str, *widgets: QWidget) -> QFrame:
    card = QFrame()
    card.setObjectName("card")
    layout = QVBoxLayout(card)
    layout.setContentsMargins(10, 8, 10, 8)
    heading = QLabel(title)
    heading.setObjectName("title")
    layout.addWidget(heading)
    for widget in widgets:
        layout.addWidget(widget, 1 if not isinstance(widget, QLabel) else 0)
    return card


class EvaluationPanel(QWidget):
    """Everything measured on held-out rows."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.loss = LineChart(_("Held-out loss"))
        self.loss.set_series([Series(EVAL + "loss", _("loss"), theme.current().series[1], points=True)])
        self.accuracy = LineChart(_("Held-out measures (0 to 1)"))
        self.confusion = MatrixView(
            _("Confusion: rows are true, columns are predicted"),
            diverging=False,
            numbers=True,
            labels=CLASSES,
        )
        self.confusion_note = QLabel()
        self.confusion_note.setObjectName("muted")
        self.confusion_note.setTextFormat(Qt.TextFormat.PlainText)
        self.confusion_note.setWordWrap(True)
        self.table = QTableWidget(0, 5)
        self.table.setAccessibleName(_("Held-out results"))
        titles = [_("Measure"), _("First"), _("Newest"), _("Words"), _("N-grams")]
        for column, title in enumerate(titles):
            item = QTableWidgetItem(title)
            if column >= 3:
                item.setToolTip(
                    _(
                        "Baseline on the same split: logistic regression that sees a bag of words, or of "
                        "word and character n-grams, and nothing else."
                    )
                )
            item.setTextAlignment(RIGHT if column else LEFT)
            self.table.setHorizontalHeaderItem(column, item)
        self.table.verticalHeader().hide()
        self.table.verticalHeader().setDefaultSectionSize(self.fontMetrics().height() + 8)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setAlternatingRowColors(True)
        self.table.setShowGrid(False)
        header = self.table.horizontalHeader()
        # Nothing is cut off: where the columns do not fit beside each other, the table scrolls.
        header.setSectionResizeMode(QHeaderView.ResizeMode.ResizeToContents)
        header.setStretchLastSection(True)
        self._model: RunModel | None = None
        self.split = QComboBox()
        self.split.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.split.setAccessibleName(_("Rows"))
        self.split.setToolTip(_("Which held-out rows the matrix and the table are about."))
        self.split.currentIndexChanged.connect(self._show_split)
        self._choice = QWidget()
        choice = QHBoxLayout(self._choice)
        choice.setContentsMargins(0, 0, 0, 0)
        label = QLabel(_("Rows"))
        label.setBuddy(self.split)
        choice.addWidget(label)
        choice.addWidget(self.split)
        choice.addStretch(1)
        self._choice.hide()
        EmptyNote(self.table, _("No evaluation yet"))
        left, right = QVBoxLayout(), QVBoxLayout()
        right.addWidget(self._choice)
        left.addWidget(self.loss, 1)
        left.addWidget(self.accuracy, 1)
        right.addWidget(
            _card(_("Confusion: rows are true, columns are predicted"), self.confusion, self.confusion_note),
            3,
        )
        right.addWidget(_card(_("Held-out results"), self.table), 3)
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 8, 0, 0)
        layout.setSpacing(8)
        layout.addLayout(left, 1)
        layout.addLayout(right, 1)

    def draw(self, model: RunModel) -> None:
        """Draw what the model holds."""
        self.loss.draw(model.evaluation)
        s = theme.current().series
        shares = [
            name
            for name in model.evaluation.names
            if name.startswith(EVAL) and name != EVAL + "loss" and self._is_share(model, name)
        ]
        names = [name for name in shares if not name.removeprefix(EVAL).startswith(BASELINE)]
        self.accuracy.set_series(
            [
                Series(name, shown(name.removeprefix(EVAL), METRICS), s[i % len(s)], points=True)
                for i, name in enumerate(names)
            ]
        )
        self.accuracy.draw(model.evaluation)
        splits = list(dict.fromkeys(event.split for event in model.evaluations))
        if splits != [self.split.itemData(i) for i in range(self.split.count())]:
            self.split.clear()
            for name in splits:
                self.split.addItem(shown(name, SPLITS), name)
            self._choice.setVisible(bool(splits))
        self._model = model
        self._show_split()

    @staticmethod
    def _is_share(model: RunModel, name: str) -> bool:
        values = model.evaluation.view(name)
        known = values[np.isfinite(values)]
        return bool(len(known)) and bool(((known >= 0) & (known <= 1)).all())

    def _show_split(self) -> None:
        model = self._model
        events = [e for e in model.evaluations if e.split == self.split.currentData()] if model else []
        self._show_confusion(events)
        self._fill_table(events)

    def _show_confusion(self, events: list[EvaluationEvent]) -> None:
        event = next((e for e in reversed(events) if e.confusion is not None), None)
        if event is None or event.confusion is None or np.shape(event.confusion) != (4, 4):
            self.confusion.set_matrix(None)
            self.confusion_note.setText(
                _("No evaluation with labelled rows yet.")
                if event is None
                else _("The confusion matrix is not 4×4 and is not shown.")
            )
            return
        self.confusion.set_matrix(np.asarray(event.confusion, dtype=np.float64))
        self.confusion_note.setText(
            _("Step %(step)d, %(rows)d rows of %(split)s")
            % {"step": event.step, "rows": event.rows, "split": shown(event.split, SPLITS)}
        )

    def _fill_table(self, events: list[EvaluationEvent]) -> None:
        if not events:
            self.table.setRowCount(0)
            return
        newest: dict[str, float | None] = {"loss": events[-1].loss, **events[-1].metrics}
        first: dict[str, float | None] = {"loss": events[0].loss, **events[0].metrics}
        baseline = {name: value for event in events for name, value in event.metrics.items()}
        names = [name for name in newest if not name.startswith(BASELINE)]
        self.table.setRowCount(len(names))
        for row, name in enumerate(names):
            self.table.setItem(row, 0, QTableWidgetItem(shown(name, METRICS)))
            values = (
                first.get(name) if len(events) > 1 else None,
                newest[name],
                baseline.get(BASELINE + name),
                baseline.get(BASELINE + "ngram_" + name),
            )
            for column, value in enumerate(values, start=1):
                item = QTableWidgetItem(_figure(name, value))
                item.setTextAlignment(RIGHT)
                self.table.setItem(row, column, item)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return MISSING_TEXT
    return f"{value:.0f}" if name.endswith("_rows") else f"{value:.4f}"
