"""Icons from the resources, drawn in the theme's colours."""

from __future__ import annotations

from functools import cache

from PySide6.QtCore import QByteArray, Qt
from PySide6.QtGui import QIcon, QPainter, QPixmap
from PySide6.QtSvg import QSvgRenderer

from so8t_engine.paths import resources_dir

SIZE = 20


@cache
def program_icon() -> QIcon:
    """The program's own icon. One for all windows: Qt keeps every icon's pictures for a while."""
    return QIcon(str(resources_dir() / "icons" / "so8t.svg"))


@cache
def icon(name: str, colour: str, ratio: float = 2.0) -> QIcon:
    """The icon ``name``, its ``currentColor`` replaced by ``colour``."""
    text = (resources_dir() / "icons" / f"{name}.svg").read_text(encoding="utf-8")
    pixmap = QPixmap(round(SIZE * ratio), round(SIZE * ratio))
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    QSvgRenderer(QByteArray(text.replace("currentColor", colour).encode())).render(painter)
    painter.end()
    pixmap.setDevicePixelRatio(ratio)
    return QIcon(pixmap)
