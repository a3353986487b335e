"""How far the estimates of finished runs were off, run after run."""

from __future__ import annotations

import html

from PySide6.QtCore import QPointF, QRectF, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QSizePolicy, QVBoxLayout, QWidget

from so8t_engine.i18n import _
from so8t_engine.memory.budget import gib
from so8t_engine.memory.calibration import Finished
from so8t_gui.forms import colours
from so8t_gui.forms.row import plain_label

NEWEST = 30
#: The strip shows at least errors of so much either way.
SPAN = 0.05


class EstimateErrors(QWidget):
    """A sentence, and a strip with a dot for each run: above the line the estimate was too high."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.sentence = plain_label(wrap=True)
        self.strip = _Strip()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.sentence)
        layout.addWidget(self.strip)
        self.show_runs([])

    def show_runs(self, runs: list[Finished]) -> None:
        """Show the newest of ``runs``, oldest first; only those whose rows filled the sequence length."""
        shown = [run for run in runs if run.fills][-NEWEST:]
        self.setVisible(bool(shown))
        self.strip.show_errors([run.error for run in shown])
        self.strip.setToolTip(_table(shown))
        if not shown:
            return
        errors = [100 * run.error for run in shown]
        text = _("Estimates of the last %(count)d finished runs: %(low)+.1f %% to %(high)+.1f %% off.") % {
            "count": len(shown), "low": min(errors), "high": max(errors),
        }  # fmt: skip
        self.sentence.setText(text)
        self.strip.setAccessibleName(text)


def _table(runs: list[Finished]) -> str:
    rows = [
        f"{run.date[:10]}  {run.name}  {run.device}: "
        + _("estimated %(estimated)s, needed %(needed)s GiB (%(error)+.1f %%)")
        % {"estimated": gib(run.predicted), "needed": gib(run.measured), "error": 100 * run.error}
        for run in reversed(runs)
    ]
    return f"<div style='white-space: pre-wrap'>{html.escape(chr(10).join(rows))}</div>" if rows else ""


class _Strip(QWidget):
    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._errors: list[float] = []
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def sizeHint(self) -> QSize:
        return QSize(220, 36)

    def show_errors(self, errors: list[float]) -> None:
        self._errors = errors
        self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        palette = self.palette()
        frame = QRectF(1, 1, self.width() - 2, self.height() - 2)
        middle = frame.center().y()
        painter.setPen(QPen(colours.muted(palette), 1, Qt.PenStyle.DotLine))
        painter.drawLine(QPointF(frame.left(), middle), QPointF(frame.right(), middle))
        span = max([SPAN, *map(abs, self._errors)])
        step = frame.width() / max(len(self._errors), 8)
        painter.setPen(Qt.PenStyle.NoPen)
        for index, error in enumerate(self._errors):
            painter.setBrush(
                palette.color(palette.ColorRole.Highlight) if abs(error) <= SPAN else colours.bad(palette)
            )
            place = QPointF(
                frame.left() + (index + 0.5) * step, middle - error / span * (frame.height() / 2 - 4)
            )
            painter.drawEllipse(place, 3, 3)
