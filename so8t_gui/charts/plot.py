"""The drawing surface of a chart: zoom along the horizontal axis, a cursor, a region, marks and phases."""

from __future__ import annotations

from typing import Any

import pyqtgraph as pg
from PySide6.QtCore import QEvent, QPointF, QRectF, Qt, Signal
from PySide6.QtGui import QColor, QMouseEvent, QPainter
from PySide6.QtWidgets import QWidget

from so8t_gui import theme
from so8t_gui.charts.stamp import Stamp
from so8t_gui.models.marks import Kind, Marks
from so8t_gui.models.names import PHASES

#: The theme's role that each kind of mark is drawn in.
MARK_ROLES = {Kind.CHECKPOINT: "good", Kind.PAUSE: "muted", Kind.MEMORY: "warn", Kind.NAN: "bad"}
BAND_SHADES = (0.0, 0.05, 0.10)


class _Box(pg.ViewBox):  # type: ignore[misc]
    """The wheel zooms along the horizontal axis; over the left axis it zooms the values."""

    def wheelEvent(self, ev: Any, axis: int | None = None) -> None:  # noqa: ANN401
        super().wheelEvent(ev, 0 if axis is None else axis)

    def mouseDragEvent(self, ev: Any, axis: int | None = None) -> None:  # noqa: ANN401
        # Values follow what is in view, until somebody has zoomed them by hand.
        super().mouseDragEvent(ev, 0 if axis is None and self.values_follow else axis)

    values_follow = True


class MarkLayer(pg.GraphicsObject):  # type: ignore[misc]
    """Phase bands behind the lines, and a line for each mark; one a pixel however many there are."""

    def __init__(self, box: pg.ViewBox) -> None:
        super().__init__()
        self._box = box
        self.marks: Marks | None = None
        self.x = "step"
        #: Name of a phase → how strongly its band is tinted.
        self.shades = dict(zip(PHASES, BAND_SHADES, strict=False))
        self._stamp = Stamp()
        self.setZValue(-50)

    def boundingRect(self) -> QRectF:
        return QRectF(self._box.viewRect())

    def viewRangeChanged(self) -> None:
        self.prepareGeometryChange()
        self.update()

    def paint(self, painter: QPainter, _option: object = None, widget: QWidget | None = None) -> None:
        marks = self.marks
        if marks is None or not (marks.phases or any(marks.count(kind) for kind in MARK_ROLES)):
            return
        view = self._box.viewRect()
        last = marks.phases[-1] if marks.phases else None
        # Marks are only ever added, or cut off together with the last phase's end.
        ends = tuple((marks.count(kind), *marks.rows[kind].step[-1:]) for kind in MARK_ROLES)
        key = (id(marks), self.x, len(marks.phases), last, ends, id(self.shades), view.getCoords())
        self._stamp.paint(painter, view, widget, key, self._paint)

    def _paint(self, painter: QPainter) -> None:
        assert self.marks is not None
        view = self._box.viewRect()
        colours = theme.current()
        pixel = view.width() / max(1.0, self._box.width())
        self._paint_phases(painter, view, colours.colour("phi"))
        for kind, role in MARK_ROLES.items():
            places = self.marks.between(kind, self.x, view.left(), view.right())
            if not places:
                continue
            colour = colours.colour(role)
            colour.setAlpha(190 if kind in {Kind.NAN, Kind.MEMORY} else 110)
            painter.setPen(pg.mkPen(colour, width=1, style=Qt.PenStyle.DotLine))
            last = -1e300
            for place in places:
                if place - last >= pixel * 2:
                    painter.drawLine(QPointF(place, view.top()), QPointF(place, view.bottom()))
                    last = place

    def _paint_phases(self, painter: QPainter, view: QRectF, colour: QColor) -> None:
        assert self.marks is not None
        phases = self.marks.phases
        for index, phase in enumerate(phases):
            start = phase.elapsed if self.x == "elapsed" else phase.step
            if index + 1 < len(phases):
                after = phases[index + 1]
                end = after.elapsed if self.x == "elapsed" else after.step
            else:
                end = view.right()
            left, right = max(start, view.left()), min(end, view.right())
            shade = QColor(colour)
            strength = self.shades.get(phase.name, 0.0)
            shade.setAlphaF(strength)
            if right > left and strength:
                painter.fillRect(QRectF(left, view.top(), right - left, view.height()), shade)


class Plot(pg.PlotWidget):  # type: ignore[misc]
    """Signals: ``whole``: a double click asks to see all; ``hovered``: x under the pointer, or None."""

    whole = Signal()
    hovered = Signal(object)

    def __init__(self, axes: dict[str, pg.AxisItem], parent: QWidget | None = None) -> None:
        # Without pyqtgraph's context menus, which are sixty untranslated widgets a chart.
        self.box = _Box(enableMenu=False)
        super().__init__(parent, axisItems=axes, viewBox=self.box, enableMenu=False)
        self.box.disableAutoRange()
        self._cursor: pg.InfiniteLine | None = None
        self.layer = MarkLayer(self.box)
        self.addItem(self.layer, ignoreBounds=True)
        self.scene().sigMouseMoved.connect(self._moved)

    def _moved(self, place: QPointF) -> None:
        inside = self.box.sceneBoundingRect().contains(place)
        self.hovered.emit(self.box.mapSceneToView(place).x() if inside else None)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.hovered.emit(None)

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.whole.emit()
        event.accept()

    def set_cursor(self, x: float | None) -> None:
        """A vertical line at ``x``; None takes it away."""
        if self._cursor is None:
            if x is None:
                return
            pen = pg.mkPen(theme.current()["muted"], width=1)
            self._cursor = pg.InfiniteLine(angle=90, pen=pen)
            self.addItem(self._cursor, ignoreBounds=True)
        self._cursor.setVisible(x is not None)
        if x is not None:
            self._cursor.setPos(x)
