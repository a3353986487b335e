"""A walk through every page: each control is reached by Tab, has a name, is legible, and is not cut off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
from PySide6.QtCore import QRect, Qt
from PySide6.QtGui import QColor, QFont, QImage
from PySide6.QtWidgets import (
    QAbstractButton,
    QApplication,
    QCheckBox,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QTabBar,
    QWidget,
)
from pytestqt.qtbot import QtBot
from walk import empty_pages, full_pages

from so8t_engine.config import Config
from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.charts.plot import Plot
from so8t_gui.forms.form import ConfigForm
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
#: Theme, language, scaling. Colours do not depend on words or sizes, so that four walks show each theme, and
#: each language at each scaling; ``SO8T_EVERY_LOOK=1`` walks through all combinations.
LOOKS = (
    list(product(THEMES, ["en", "ja"], [100, 200]))
    if os.environ.get("SO8T_EVERY_LOOK")
    else list(zip(THEMES, ["en", "ja", "en", "ja"], [100, 100, 200, 200], strict=True))
)


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


def shown_pages(window: MainWindow, qtbot: QtBot, config: Config) -> Iterator[tuple[str, QWidget]]:
    """Every page, first as an empty window has it and then with runs."""
    yield from empty_pages(window, qtbot)
    yield from full_pages(window, qtbot, config)


def spoken(widget: QWidget) -> str:
    text = widget.text() if isinstance(widget, QAbstractButton) else ""
    return (widget.accessibleName() or text).strip()


def own(widget: QWidget) -> bool:
    """A control of the program, and not a part of one of Qt's controls."""
    return not widget.objectName().startswith("qt_") and not isinstance(widget.parent(), QComboBox)


def beyond_the_keyboard(window: MainWindow, page: QWidget) -> list[str]:
    """Controls that Tab does not reach, that have no name, or that only a mouse can press."""
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
    found = [f"{type(w).__name__} {spoken(w)} is not reached" for w in wanted - reached]
    found += [f"{type(w).__name__} has no name" for w in wanted if not spoken(w)]
    found += [
        f"{type(w).__name__} {w.text()} takes no focus"
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
    return found


def ink_of(label: QLabel, picture: QImage) -> float:
    """The contrast between a label's letters and their ground, as they stand in the picture of its page."""
    ratio = picture.devicePixelRatio()
    page = label.window()
    place = QRect(
        label.mapTo(page, label.contentsRect().topLeft()) * ratio, label.contentsRect().size() * ratio
    )
    part = picture.copy(place & picture.rect()).convertToFormat(QImage.Format.Format_RGB32)
    pixels = np.frombuffer(part.constBits(), np.uint32).reshape(part.height(), -1)[:, : part.width()]
    colours, counts = np.unique(pixels & 0xFFFFFF, return_counts=True)
    if len(colours) < 2:
        return 21.0  # nothing of it is to be seen: not a matter of contrast
    ground = QColor.fromRgb(int(colours[counts.argmax()])).name()
    return max(contrast(QColor.fromRgb(int(colour)).name(), ground) for colour in colours)


def faint(page: QWidget, picture: QImage) -> list[str]:
    """Labels whose letters do not stand out from their ground."""
    ratios = {
        label.text()[:40]: round(ink_of(label, picture), 2)
        for label in page.findChildren(QLabel)
        if label.isVisible()
        and label.isEnabled()
        and label.text().strip()
        and not label.visibleRegion().isEmpty()
    }
    return [f"{text}: {ratio}" for text, ratio in ratios.items() if ratio < 4.5]


def cut_off(page: QWidget) -> list[str]:
    """Texts that have less room than they need."""
    found = []

    def short(widget: QWidget, text: str, has: int, needs: int) -> None:
        if has < needs - 1:
            found.append(f"{type(widget).__name__} {text[:60]!r}: {has} of {needs}")

    for widget in page.findChildren(QWidget):
        if not widget.isVisible() or not own(widget):
            continue
        if isinstance(widget, QLabel) and widget.text():
            if widget.wordWrap():
                short(widget, widget.text(), widget.height(), widget.heightForWidth(widget.width()))
            elif widget.textFormat() is Qt.TextFormat.PlainText:
                short(widget, widget.text(), widget.width(), widget.sizeHint().width())
        elif isinstance(widget, QPushButton | QCheckBox) and widget.text():
            short(widget, widget.text(), widget.width(), widget.minimumSizeHint().width())
        elif isinstance(widget, QTabBar):
            for index in range(widget.count()):
                if widget.isTabVisible(index):
                    needs = widget.fontMetrics().horizontalAdvance(widget.tabText(index).replace("&", ""))
                    short(widget, widget.tabText(index), widget.tabRect(index).width(), needs)
            short(widget, "all tabs", widget.width(), widget.tabRect(widget.count() - 1).right())
        elif isinstance(widget, QLineEdit) and not widget.text() and widget.placeholderText():
            needs = widget.fontMetrics().horizontalAdvance(widget.placeholderText())
            short(widget, widget.placeholderText(), widget.width(), needs)
        elif isinstance(widget, QHeaderView) and widget.orientation() is Qt.Orientation.Horizontal:
            for index in range(widget.count()):
                text = str(widget.model().headerData(index, widget.orientation()) or "")
                if not widget.isSectionHidden(index):
                    needs = widget.fontMetrics().horizontalAdvance(text)
                    short(widget, text, widget.sectionSize(index), needs)
        elif isinstance(widget, Plot) and not widget.visibleRegion().isEmpty():
            found += [f"{widget.accessibleName()}: {words}" for words in touching(widget)]
    return found


def touching(plot: Plot) -> list[str]:
    """Numbers of a plot's axes that touch each other, and axes without two to read the scale from."""
    found = []
    for side in ("bottom", "left"):
        axis = plot.getPlotItem().getAxis(side)
        boxes = [(rect, text) for rect, _flags, text in axis.shown_texts]
        if len(boxes) < 2:
            found.append(f"{side} has {[text for _rect, text in boxes]}")
        for index, (rect, text) in enumerate(boxes):
            found += [f"{text} on {other}" for box, other in boxes[index + 1 :] if rect.intersects(box)]
    return found


@pytest.mark.parametrize(("choice", "code", "percent"), LOOKS)
def test_every_page_is_read_and_reached(
    window: MainWindow,
    qtbot: QtBot,
    qapp: QApplication,
    demo_config: Config,
    choice: str,
    code: str,
    percent: int,
) -> None:
    font = qapp.font()
    larger = qapp.font()
    larger.setPointSizeF(font.pointSizeF() * percent / 100)
    larger.setStyleStrategy(QFont.StyleStrategy.NoAntialias)  # letters in their own colour, not mixed
    faults: dict[str, dict[str, list[str]]] = {}
    seen = set()
    try:
        qapp.setFont(larger)
        # Letters of twice the size on a screen that is twice as large: what a setting of 200 % makes of 4K.
        window.resize(1280 * percent // 100, 800 * percent // 100)
        window.show_as(code, choice)
        for name, page in shown_pages(window, qtbot, demo_config):
            seen.add(name.split()[0])
            found = {
                "cut off": cut_off(page),
                "untranslated": untranslated(page, code),
                "beyond the keyboard": beyond_the_keyboard(window, page),
                "faint": faint(page, window.grab().toImage()),
            }
            if any(found.values()):
                faults[name] = {what: bad for what, bad in found.items() if bad}
    finally:
        qapp.setFont(font)
        window.show_as("en", "light")
    assert faults == {}
    assert seen == {spec.name for spec in window.pages.specs}


def in_form(widget: QWidget) -> bool:
    """Whether a control belongs to a setting."""
    above: QWidget | None = widget
    while above is not None and not isinstance(above, ConfigForm):
        above = above.parentWidget()
    return above is not None


def untranslated(page: QWidget, code: str) -> list[str]:
    """Texts on the screen that are messages of the program in English although another language is chosen."""
    if code == "en":
        return []
    found = []
    for widget in page.findChildren(QWidget):
        if not widget.isVisible() or not own(widget):
            continue
        texts = [widget.accessibleName(), widget.toolTip()]
        if isinstance(widget, QLabel | QAbstractButton):
            texts.append(widget.text())
        # The form's choices are the values that stand in the file, in every language.
        if isinstance(widget, QComboBox) and not in_form(widget):
            texts += [widget.itemText(index) for index in range(widget.count())]
        if isinstance(widget, QTabBar):
            texts += [widget.tabText(index) for index in range(widget.count())]
        found += [text for text in texts if text and _(text) != text]
    return sorted(set(found))
