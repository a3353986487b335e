"""Drawings that stay the same from one painting to the next, kept as a picture of their pixels."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QPaintEngine, QPainter, QPixmap, QTransform
from PySide6.QtWidgets import QWidget

#: What a picture may depend on; another key, another picture.
Key = tuple[object, ...]


class Stamp:
    """One drawing. Text and dotted lines take a millisecond each time; their pixels take a tenth of it."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._pixmap = QPixmap()

    def paint(
        self,
        painter: QPainter,
        rect: QRectF,
        widget: QWidget | None,
        key: Key,
        draw: Callable[[QPainter], None],
    ) -> None:
        """What ``draw`` draws within ``rect``, both in the painter's coordinates.

        Only on a screen's pixels; into a picture of another resolution, an SVG or a printer it is drawn anew.
        """
        engine, device = painter.paintEngine(), painter.device()
        transform = painter.worldTransform()
        if (
            widget is None
            or engine is None
            or engine.type() is not QPaintEngine.Type.Raster
            or device.devicePixelRatio() != widget.devicePixelRatio()
            or transform.isRotating()
        ):
            draw(painter)
            return
        ratio = widget.devicePixelRatio()
        place = transform.mapRect(rect).toAlignedRect()
        here = transform * QTransform.fromTranslate(-place.x(), -place.y())
        whole = (*key, ratio, place.width(), place.height(), *_numbers(here))
        if whole != self._key:
            self._key = whole
            self._pixmap = QPixmap(place.size() * ratio)
            self._pixmap.setDevicePixelRatio(ratio)
            self._pixmap.fill(Qt.GlobalColor.transparent)
            inner = QPainter(self._pixmap)
            inner.setRenderHints(painter.renderHints())
            inner.setWorldTransform(here)
            draw(inner)
            inner.end()
        painter.save()
        painter.resetTransform()
        painter.drawPixmap(place.topLeft(), self._pixmap)
        painter.restore()


def _numbers(transform: QTransform) -> tuple[float, ...]:
    """Of a transform without rotation, rounded to what moves no pixel."""
    return (
        transform.m11(),
        transform.m22(),
        round(transform.dx(), 2),
        round(transform.dy(), 2),
    )
