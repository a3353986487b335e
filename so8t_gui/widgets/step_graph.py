"""The pipeline as a picture: a box for each step, arrows from what it reads, live state and progress."""

from __future__ import annotations

import time

from PySide6.QtCore import QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QColor,
    QFontMetricsF,
    QHideEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QPolygonF,
    QShowEvent,
)
from PySide6.QtWidgets import QSizePolicy, QWidget

from so8t_engine.i18n import N_, _
from so8t_gui import theme
from so8t_gui.alignment import LEFT
from so8t_gui.models.pipeline_model import PipelineModel, StepView

#: Column and row of each step, and the steps that it is drawn to follow.
PLACES: dict[str, tuple[float, int]] = {
    "collect": (0, 0), "preprocess": (1, 0), "soul": (1, 1), "train": (2, 0), "integrate": (3, 0),
    "evaluate": (4, 0), "upload": (5, 0), "cleanup": (6, 0),
}  # fmt: skip
ARROWS = (
    ("collect", "preprocess"), ("preprocess", "train"), ("soul", "train"), ("train", "integrate"),
    ("integrate", "evaluate"), ("evaluate", "upload"), ("upload", "cleanup"),
)  # fmt: skip
GAP, ROW_GAP, MARGIN = 15.0, 12.0, 2.0
#: Where a box has no room for the whole title.
SHORT = {"preprocess": N_("Prepare"), "soul": N_("Soul"), "upload": N_("Upload")}


def duration(seconds: float) -> str:
    """Seconds in words that a table has room for."""
    if seconds < 10:
        return _("%(seconds).1f s") % {"seconds": seconds}
    if seconds < 100:
        return _("%(seconds).0f s") % {"seconds": seconds}
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class StepGraph(QWidget):
    """Boxes can be chosen with the mouse and the arrow keys.

    Signals: ``chosen`` with a step's name; ``activated`` on double click and Return.
    """

    chosen = Signal(str)
    activated = Signal(str)

    def __init__(self, model: PipelineModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self._model = model
        self.selected = "collect"
        self._clock = QTimer(self, interval=500)
        self._clock.timeout.connect(self._tick)
        self._name()

    def set_model(self, model: PipelineModel) -> None:
        """Show another model, or the changes in this one."""
        self._model = model
        self._name()
        self.update()

    def sizeHint(self) -> QSize:
        return QSize(760, int(2 * self._box_height() + ROW_GAP + 2 * MARGIN))

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def _box_height(self) -> float:
        return QFontMetricsF(self.font()).height() * 3 + 30

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._clock.start()

    def hideEvent(self, event: QHideEvent) -> None:
        self._clock.stop()
        super().hideEvent(event)

    def _tick(self) -> None:
        if self._model.current is not None:
            self.update()  # the running step's clock

    def choose(self, name: str) -> None:
        """Select a step."""
        if name in PLACES and name != self.selected:
            self.selected = name
            self._name()
            self.update()
            self.chosen.emit(name)

    def _name(self) -> None:
        view = self._model.steps[self.selected]
        self.setAccessibleName(f"{_(view.title)}: {_(view.status_name())}")

    def boxes(self) -> dict[str, QRectF]:
        """The rectangle of each step."""
        columns = 7
        width = (self.width() - 2 * MARGIN - GAP * (columns - 1)) / columns
        height = self._box_height()
        return {
            name: QRectF(MARGIN + x * (width + GAP), MARGIN + y * (height + ROW_GAP), width, height)
            for name, (x, y) in PLACES.items()
        }

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        boxes = self.boxes()
        for before, after in ARROWS:
            self._arrow(painter, boxes[before], boxes[after])
        for number, (name, view) in enumerate(self._model.steps.items(), start=1):
            self._box(painter, boxes[name], number, view)
        painter.end()

    def _arrow(self, painter: QPainter, before: QRectF, after: QRectF) -> None:
        colours = theme.current()
        start, end = QPointF(before.right(), before.center().y()), QPointF(after.left(), after.center().y())
        painter.setPen(QPen(colours.colour("control_line"), 1.5))
        if start.y() != end.y():  # from the second row up into the side of the box
            corner = QPointF(end.x() - GAP / 2, start.y())
            painter.drawLine(start, corner)
            end = QPointF(corner.x(), after.bottom() - 12)
            painter.drawLine(corner, end)
            start, end = end, QPointF(after.left(), end.y())
        painter.drawLine(start, end - QPointF(5, 0))
        painter.setBrush(colours.colour("control_line"))
        painter.setPen(Qt.PenStyle.NoPen)
        painter.drawPolygon(QPolygonF([end, end + QPointF(-7, -4), end + QPointF(-7, 4)]))

    def _colour(self, view: StepView) -> QColor:
        colours = theme.current()
        roles = {
            "running": "accent", "retrying": "warn", "done": "good", "skipped": "good", "failed": "bad",
            "stopped": "warn",
        }  # fmt: skip
        return colours.colour(roles.get(view.status, "muted"))

    def _box(self, painter: QPainter, box: QRectF, number: int, view: StepView) -> None:
        colours = theme.current()
        chosen = view.name == self.selected
        painter.setBrush(colours.colour("selected" if chosen else "surface"))
        edge = colours.colour("accent") if chosen and self.hasFocus() else self._colour(view)
        strong = chosen or view.status in {"running", "failed", "retrying"}
        painter.setPen(QPen(edge if strong else colours.colour("line"), 2.0 if strong else 1.0))
        painter.drawRoundedRect(box.adjusted(1, 1, -1, -1), 7, 7)
        inner = box.adjusted(7, 6, -7, -6)
        line = QFontMetricsF(self.font()).height()
        bold = self.font()
        bold.setBold(True)
        painter.setFont(bold)
        painter.setPen(colours.colour("disabled" if view.status == "off" else "text"))
        metrics = QFontMetricsF(bold)
        titles = [f"{number} {_(view.title)}", f"{number} {_(SHORT.get(view.name, view.title))}"]
        fits = [text for text in titles if metrics.horizontalAdvance(text) <= inner.width()]
        if not fits:  # in narrower letters: the number tells which step it is
            bold.setStretch(max(62, int(100 * inner.width() / metrics.horizontalAdvance(titles[-1]))))
            painter.setFont(bold)
            metrics = QFontMetricsF(bold)
        self._line(painter, inner, 0, line, fits[0] if fits else titles[-1], metrics)
        painter.setFont(self.font())
        painter.setPen(self._colour(view))
        metrics = QFontMetricsF(self.font())
        self._line(painter, inner, 1, line, _(view.status_name()), metrics)
        painter.setPen(colours.colour("muted"))
        self._line(painter, inner, 2, line, self._time(view), metrics)
        self._bar(painter, QRectF(inner.left(), inner.bottom() - 5, inner.width(), 5), view)

    @staticmethod
    def _line(
        painter: QPainter, inner: QRectF, row: int, height: float, text: str, metrics: QFontMetricsF
    ) -> None:
        shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, inner.width())
        at = QRectF(inner.left(), inner.top() + row * height, inner.width(), height)
        painter.drawText(at, LEFT, shown)

    @staticmethod
    def _time(view: StepView) -> str:
        if view.status in {"running", "retrying"} and view.began is not None:
            spent = duration(max(0.0, time.time() - view.began))
            if view.expected_s:
                return _("%(spent)s of ~%(expected)s") % {
                    "spent": spent,
                    "expected": duration(view.expected_s),
                }
            return spent
        if view.seconds is not None:
            return duration(view.seconds)
        if view.status == "skipped" and view.measured and view.expected_s is not None:
            return _("took %(time)s") % {"time": duration(view.expected_s)}
        if view.status == "planned" and view.expected_s is not None:
            return _("~%(expected)s") % {"expected": duration(view.expected_s)}
        return ""

    def _bar(self, painter: QPainter, bar: QRectF, view: StepView) -> None:
        if view.status not in {"running", "retrying", "done", "skipped"}:
            return
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(theme.current().colour("hover"))
        painter.drawRoundedRect(bar, 2.5, 2.5)
        fraction = view.fraction()
        if fraction is not None and fraction > 0:
            painter.setBrush(self._colour(view))
            painter.drawRoundedRect(
                QRectF(bar.left(), bar.top(), bar.width() * fraction, bar.height()), 2.5, 2.5
            )

    def _at(self, place: QPointF) -> str | None:
        return next((name for name, box in self.boxes().items() if box.contains(place)), None)

    def mousePressEvent(self, event: QMouseEvent) -> None:
        name = self._at(event.position())
        if name is not None:
            self.setFocus(Qt.FocusReason.MouseFocusReason)
            self.choose(name)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        name = self._at(event.position())
        if name is not None:
            self.activated.emit(name)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        names = list(PLACES)
        at = names.index(self.selected)
        forward = {Qt.Key.Key_Right, Qt.Key.Key_Down}
        back = {Qt.Key.Key_Left, Qt.Key.Key_Up}
        if event.key() in forward | back:
            self.choose(names[min(len(names) - 1, max(0, at + (1 if event.key() in forward else -1)))])
        elif event.key() in {Qt.Key.Key_Return, Qt.Key.Key_Enter}:
            self.activated.emit(self.selected)
        else:
            super().keyPressEvent(event)

    def focusInEvent(self, event: object) -> None:
        super().focusInEvent(event)  # type: ignore[arg-type]
        self.update()

    def focusOutEvent(self, event: object) -> None:
        super().focusOutEvent(event)  # type: ignore[arg-type]
        self.update()
