"""One setting in the form: marker, title, editor, unit, reset button, and what is wrong beneath."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QEvent, QSize, Qt, Signal
from PySide6.QtGui import QIcon, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QGridLayout, QLabel, QSizePolicy, QToolButton, QWidget

from so8t_engine.config import FieldProblem
from so8t_engine.i18n import _
from so8t_gui.forms import colours
from so8t_gui.forms.editors import make_editor
from so8t_gui.forms.fields import FieldSpec


def plain_label(text: str = "", *, wrap: bool = False) -> QLabel:
    """A label that shows text as it is: no markup, no images, whatever a file contains."""
    label = QLabel()
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setText(text)
    label.setWordWrap(wrap)
    if wrap:
        policy = label.sizePolicy()
        policy.setHeightForWidth(True)
        policy.setHorizontalPolicy(QSizePolicy.Policy.Ignored)
        label.setSizePolicy(policy)
    return label


def _reset_icon(widget: QWidget) -> QIcon:
    """A circular arrow in the text colour, so that it needs no file per theme."""
    size = 16
    ratio = widget.devicePixelRatioF()
    pixmap = QPixmap(QSize(size, size) * ratio)
    pixmap.setDevicePixelRatio(ratio)
    pixmap.fill(Qt.GlobalColor.transparent)
    painter = QPainter(pixmap)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setPen(QPen(colours.muted(widget.palette()), 1.6))
    painter.drawArc(3, 3, 10, 10, 120 * 16, -290 * 16)
    painter.drawLine(2, 2, 5, 4)
    painter.drawLine(5, 4, 2, 7)
    painter.end()
    return QIcon(pixmap)


class FieldRow(QWidget):
    """A setting.

    Signals: ``edited`` when a person changed the value; ``focused`` with the spec on focus.
    """

    edited = Signal()
    focused = Signal(object)

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self.editor = make_editor(spec)
        self.problem: FieldProblem | None = None
        self._changed = False

        self._marker = plain_label()
        self._marker.setFixedWidth(colours.wanted_width(self, 2))
        self.title = plain_label(_(spec.title))
        self.title.setWordWrap(True)
        self.title.setBuddy(self.editor)
        self._unit = plain_label(_(spec.unit))
        self._unit.setFixedWidth(colours.wanted_width(self, 8))
        self._reset = QToolButton()
        self._reset.setAccessibleName(_("Reset %(field)s to its default") % {"field": _(spec.title)})
        self._reset.setToolTip(_("Default: %(value)s") % {"value": spec.default_text()})
        self._reset.clicked.connect(self.reset)
        # The place stays taken while the button is hidden: nothing jumps as one types.
        policy = self._reset.sizePolicy()
        policy.setRetainSizeWhenHidden(True)
        self._reset.setSizePolicy(policy)
        self._reset.hide()
        self.error = plain_label(wrap=True)
        self.error.hide()

        grid = QGridLayout(self)
        grid.setContentsMargins(0, 2, 0, 2)
        grid.setHorizontalSpacing(6)
        grid.setVerticalSpacing(1)
        grid.addWidget(self._marker, 0, 0)
        grid.addWidget(self.title, 0, 1)
        grid.addWidget(self.editor, 0, 2)
        grid.addWidget(self._unit, 0, 3)
        grid.addWidget(self._reset, 0, 4)
        grid.addWidget(self.error, 1, 2, 1, 3)
        grid.setColumnStretch(2, 1)

        for widget in (self, *self.editor.findChildren(QWidget)):
            if not isinstance(widget, QToolButton):
                widget.setToolTip(self._tip())
        self.editor.edited.connect(self._on_edited)
        self.editor.focused.connect(lambda: self.focused.emit(self.spec))
        self.editor.set_value(spec.default)
        self._colour()

    def _tip(self) -> str:
        # A tooltip takes markup when it looks like some; these texts are the program's own.
        parts = [_(self.spec.help), self.spec.range_text(), self.spec.path]
        return "\n".join(part for part in parts if part)

    def set_title_width(self, width: int) -> None:
        """All titles of a form are given one width."""
        self.title.setFixedWidth(width)

    def value(self) -> Any:  # noqa: ANN401
        """What the editor holds; a text that is no number stays a text."""
        return self.editor.value()

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        """Show ``value`` without a signal."""
        self.editor.set_value(value)
        self._mark()

    def reset(self) -> None:
        """Back to the default, as if typed."""
        self.editor.set_value(self.spec.default)
        self._on_edited()
        self.editor.setFocus()

    @property
    def changed(self) -> bool:
        """Whether the value differs from the default."""
        return self._changed

    def _on_edited(self) -> None:
        self._mark()
        self.edited.emit()

    def _mark(self) -> None:
        value = self.value()
        self._changed = bool(value != self.spec.default)
        self._marker.setText("•" if self._changed else "")
        self._marker.setToolTip(_("Changed from the default") if self._changed else "")
        self._marker.setAccessibleName(_("Changed from the default") if self._changed else "")
        if self._changed and not self._reset.isVisibleTo(self):
            self._reset.setIcon(_reset_icon(self))
        self._reset.setVisible(self._changed)

    def set_problem(self, problem: FieldProblem | None) -> None:
        """Show what is wrong with this setting, or that nothing is."""
        if problem == self.problem:
            return
        self.problem = problem
        text = f"{problem.sentence} {problem.mend}".strip() if problem else ""
        self.error.setText(text)
        self.error.setVisible(bool(text))
        self._colour()

    def matches(self, words: list[str]) -> bool:
        """Whether every one of ``words`` (in lower case) occurs in title, help or name."""
        spec = self.spec
        texts = " ".join((_(spec.title), spec.title, _(spec.help), spec.help, spec.path, *spec.choices))
        return all(word in texts.lower() for word in words)

    def _colour(self) -> None:
        palette = self.palette()
        colours.tint(self.error, colours.bad(palette))
        colours.tint(self._unit, colours.muted(palette))
        colours.tint(self._marker, palette.color(palette.ColorRole.Highlight), bold=True)
        if self.problem is not None:
            colours.tint(self.title, colours.bad(palette))
        elif self.title.styleSheet():
            self.title.setStyleSheet("")
        if self._changed:
            self._reset.setIcon(_reset_icon(self))

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() is QEvent.Type.PaletteChange and hasattr(self, "error"):
            self._colour()
