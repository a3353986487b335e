"""A walk through every page: each control is reached by Tab, has a name, is legible, and is not cut off."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QColor
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QCheckBox,
    QComboBox,
    QLabel,
    QPushButton,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot

from so8t_gui import theme
from so8t_gui.main_window import MainWindow

#: Pairs of ink and ground that stand on the screen, by role.
TEXT_PAIRS = [
    *[
        (ink, ground)
        for ink in ("text", "muted")
        for ground in ("window", "surface", "raised", "hover", "selected")
    ],
    *[(ink, ground) for ink in ("accent", "good", "warn", "bad", "phi") for ground in ("window", "surface")],
    ("on_accent", "accent"),
    ("on_accent", "accent_hover"),
    ("on_bad", "bad"),
    ("text", "warn_bg"),
    ("text", "bad_bg"),
]
#: What tells a control from the page, and the focus from its absence, needs 3 : 1.
SHAPE_PAIRS = [(line, ground) for line in ("control_line", "accent") for ground in ("window", "surface")]
THEMES = [name for name in theme.THEMES if name != "system"]


def luminance(colour: QColor) -> float:
    """Relative luminance, WCAG 2.2."""
    parts = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (colour.redF(), colour.greenF(), colour.blueF())
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: str, b: str) -> float:
    """The ratio of WCAG 2.2, from 1 to 21."""
    high, low = sorted((luminance(QColor(a)), luminance(QColor(b))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_ratio_is_that_of_wcag() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("name", THEMES)
def test_every_text_stands_out_from_its_ground(name: str) -> None:
    look = theme.load_theme(name)
    low = {
        f"{ink} on {ground}": round(contrast(look[ink], look[ground]), 2)
        for pairs, limit in ((TEXT_PAIRS, 4.5), (SHAPE_PAIRS, 3.0))
        for ink, ground in pairs
        if contrast(look[ink], look[ground]) < limit
    }
    low |= {
        f"series {colour}": round(contrast(colour, look["surface"]), 2)
        for colour in look.series
        if contrast(colour, look["surface"]) < 3.0
    }
    assert low == {}


def shown_pages(window: MainWindow, qtbot: QtBot) -> Iterator[tuple[str, QWidget]]:
    for spec in window.pages.specs:
        window.show_page(spec.name)
        page = window.pages.current_page()
        qtbot.waitUntil(page.isVisible)
        QApplication.processEvents()
        tabs = getattr(getattr(page, "view", None), "tabs", None) if spec.name == "run" else None
        for index in range(tabs.count() if tabs is not None else 1):
            if tabs is not None:
                tabs.setCurrentIndex(index)
                QApplication.processEvents()
            yield f"{spec.name}[{index}]", page


def spoken(widget: QWidget) -> str:
    text = widget.text() if isinstance(widget, QAbstractButton) else ""
    return (widget.accessibleName() or text).strip()


def own(widget: QWidget) -> bool:
    """A control of the program, and not a part of one of Qt's controls."""
    return not widget.objectName().startswith("qt_") and not isinstance(widget.parent(), QComboBox)


def test_tab_reaches_every_control_and_each_has_a_name(window: MainWindow, qtbot: QtBot) -> None:
    for name, page in shown_pages(window, qtbot):
        wanted = {
            widget
            for widget in page.findChildren(QWidget)
            if widget.isVisible()
            and widget.isEnabled()
            and widget.focusPolicy() & Qt.FocusPolicy.TabFocus
            and widget.focusProxy() is None
            and own(widget)
        }
        reached: set[QWidget] = set()
        start = window.navigation
        widget = start.nextInFocusChain()
        while widget is not None and widget is not start and len(reached) < 5000:
            reached.add(widget)
            widget = widget.nextInFocusChain()
        lost = [f"{type(w).__name__} {spoken(w)}" for w in wanted - reached]
        assert lost == [], name
        nameless = [type(w).__name__ for w in wanted if not spoken(w)]
        assert nameless == [], name
        unreachable = [
            f"{type(w).__name__} {w.text()}"
            for w in page.findChildren(QAbstractButton)
            if w.isVisible()
            and own(w)
            and not w.focusPolicy() & Qt.FocusPolicy.TabFocus
            and w.focusProxy() is None
            and not isinstance(w.parent(), QTabBar)
            and "clear" not in w.objectName().lower()
            and w.metaObject().className() != "QLineEditIconButton"
            and w.text()
        ]
        assert unreachable == [], name


def cut_off(page: QWidget) -> list[str]:
    """Texts that have less room than they need."""
    found = []
    for widget in page.findChildren(QWidget):
        if not widget.isVisible() or not own(widget):
            continue
        if isinstance(widget, QLabel) and widget.text() and not widget.wordWrap():
            needs = widget.sizeHint().width()
            if widget.textFormat() is Qt.TextFormat.PlainText and widget.width() < needs - 1:
                found.append(f"QLabel {widget.text()!r}: {widget.width()} of {needs}")
        elif isinstance(widget, QPushButton | QCheckBox) and widget.text():
            needs = widget.minimumSizeHint().width()
            if widget.width() < needs - 1:
                found.append(f"{type(widget).__name__} {widget.text()!r}: {widget.width()} of {needs}")
    return found


@pytest.mark.parametrize("code", ["en", "ja"])
@pytest.mark.parametrize("percent", [100, 200])
def test_no_text_is_cut_off(
    window: MainWindow, qtbot: QtBot, qapp: QApplication, code: str, percent: int
) -> None:
    font = qapp.font()
    larger = qapp.font()
    larger.setPointSizeF(font.pointSizeF() * percent / 100)
    try:
        qapp.setFont(larger)
        # Letters of twice the size on a screen that is twice as large: what a setting of 200 % makes of 4K.
        window.resize(1280 * percent // 100, 800 * percent // 100)
        window.show_as(code, "light")
        faults = {name: bad for name, page in shown_pages(window, qtbot) if (bad := cut_off(page))}
    finally:
        qapp.setFont(font)
        window.show_as("en", "light")
    assert faults == {}
