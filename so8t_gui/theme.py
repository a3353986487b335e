"""Light and dark colours, the font stack, and the style sheet made from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from string import Template

from PySide6.QtCore import Qt
from PySide6.QtGui import QColor, QFont, QGuiApplication, QPalette
from PySide6.QtWidgets import QApplication, QWidget

from so8t_engine.i18n import N_
from so8t_engine.paths import resources_dir

THEMES: dict[str, str] = {
    "system": N_("As the system"),
    "light": N_("Light"),
    "dark": N_("Dark"),
    "contrast_light": N_("High contrast, light"),
    "contrast_dark": N_("High contrast, dark"),
}

# Latin first, then a face with Japanese: a family that lacks a sign falls through to the next.
FONT_FAMILIES = [
    "Inter",
    "Segoe UI",
    "SF Pro Text",
    "Noto Sans",
    "DejaVu Sans",
    "Noto Sans CJK JP",
    "Noto Sans JP",
    "Yu Gothic UI",
    "Meiryo",
    "Hiragino Sans",
    "IPAexGothic",
]
MONO_FAMILIES = [
    "JetBrains Mono",
    "Cascadia Mono",
    "Consolas",
    "DejaVu Sans Mono",
    "Noto Sans Mono CJK JP",
    "Noto Sans CJK JP",
    "MS Gothic",
]


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours by role; ``series`` are told apart by colour-blind eyes too (Okabe and Ito).

    ``base`` is ``light`` or ``dark``: which of two pictures or scales goes with it.
    """

    name: str
    base: str
    colours: dict[str, str]
    series: list[str]

    def __getitem__(self, role: str) -> str:
        return self.colours[role]

    def colour(self, role: str) -> QColor:
        return QColor(self.colours[role])


def load_theme(name: str) -> Theme:
    """One of the themes in the resources."""
    record = json.loads((resources_dir() / "themes" / f"{name}.json").read_text(encoding="utf-8"))
    return Theme(name, record.get("base", name), record["colours"], record["series"])


def resolve(choice: str) -> str:
    """The theme for a choice, which may be ``system``."""
    if choice in THEMES and choice != "system":
        return choice
    return "dark" if QGuiApplication.styleHints().colorScheme() is Qt.ColorScheme.Dark else "light"


_current: Theme | None = None


def current() -> Theme:
    """The theme in use."""
    global _current
    if _current is None:
        _current = load_theme("light")
    return _current


def _palette(theme: Theme) -> QPalette:
    palette = QPalette()
    roles = {
        QPalette.ColorRole.Window: "window",
        QPalette.ColorRole.Base: "surface",
        QPalette.ColorRole.AlternateBase: "raised",
        QPalette.ColorRole.Button: "raised",
        QPalette.ColorRole.WindowText: "text",
        QPalette.ColorRole.Text: "text",
        QPalette.ColorRole.ButtonText: "text",
        QPalette.ColorRole.ToolTipBase: "raised",
        QPalette.ColorRole.ToolTipText: "text",
        QPalette.ColorRole.PlaceholderText: "muted",
        QPalette.ColorRole.Highlight: "accent",
        QPalette.ColorRole.HighlightedText: "on_accent",
        QPalette.ColorRole.Link: "accent",
        QPalette.ColorRole.Mid: "line",
    }
    for role, name in roles.items():
        palette.setColor(role, theme.colour(name))
    for role in (QPalette.ColorRole.WindowText, QPalette.ColorRole.Text, QPalette.ColorRole.ButtonText):
        palette.setColor(QPalette.ColorGroup.Disabled, role, theme.colour("disabled"))
    return palette


def apply(app: QApplication, choice: str) -> Theme:
    """Use a theme everywhere. Charts take their colours when they are built."""
    global _current
    _current = load_theme(resolve(choice))
    if app.property("so8tStyled") is None:
        # Once: replacing the style deletes the old one under widgets that still wait to be deleted.
        app.setStyle("Fusion")
        app.setProperty("so8tStyled", True)
    app.setPalette(_palette(_current))
    sheet = (resources_dir() / "themes" / "style.qss").read_text(encoding="utf-8")
    icons = (resources_dir() / "icons").as_posix()
    app.setStyleSheet(Template(sheet).substitute(_current.colours, icons=icons, theme=_current.base))
    return _current


def restyle(widget: QWidget) -> None:
    """Have the style sheet look at a property that has changed."""
    widget.style().unpolish(widget)
    widget.style().polish(widget)


def use_fonts(app: QApplication) -> None:
    """Set the font stack, keeping the system's size."""
    font = QFont(app.font())
    font.setFamilies(FONT_FAMILIES)
    if font.pointSizeF() < 9:
        font.setPointSizeF(9.5)
    app.setFont(font)


def mono_font(point_size: float) -> QFont:
    """A fixed-pitch font with Japanese behind it."""
    font = QFont()
    font.setFamilies(MONO_FAMILIES)
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPointSizeF(point_size)
    return font
