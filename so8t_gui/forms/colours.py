"""Colours for states that a palette has no role for, chosen to be legible on the palette's ground."""

from __future__ import annotations

from PySide6.QtGui import QColor, QPalette
from PySide6.QtWidgets import QLabel, QWidget


def is_dark(palette: QPalette) -> bool:
    """Whether text stands on a dark ground."""
    return palette.color(QPalette.ColorRole.Window).lightness() < 128


def bad(palette: QPalette) -> QColor:
    """For errors: at least 4.5 : 1 against window and base."""
    return QColor("#ff8f86") if is_dark(palette) else QColor("#b3261e")


def blend(first: QColor, second: QColor, part: float) -> QColor:
    """``part`` of ``second`` in ``first``."""
    mixed = [
        round(a + (b - a) * part)
        for a, b in zip(first.getRgb()[:3], second.getRgb()[:3], strict=True)  # type: ignore[index]
    ]
    return QColor(*mixed)


def muted(palette: QPalette) -> QColor:
    """For secondary text: the text colour, a third of the way to the ground."""
    return blend(palette.color(QPalette.ColorRole.WindowText), palette.color(QPalette.ColorRole.Window), 0.33)


def tint(label: QLabel, colour: QColor, bold: bool = False) -> None:
    """Colour a label's text. A style sheet, because one on the application overrides the palette."""
    weight = " font-weight: 600;" if bold else ""
    sheet = f"color: {colour.name()};{weight} background: transparent;"
    if label.styleSheet() != sheet:  # setting one is costly, even the same
        label.setStyleSheet(sheet)


def wanted_width(widget: QWidget, characters: int) -> int:
    """Width of ``characters`` average characters in the widget's font."""
    return widget.fontMetrics().averageCharWidth() * characters
