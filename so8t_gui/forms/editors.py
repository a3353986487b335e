"""One editor for each kind of setting. All say ``edited``, ``value()`` and ``set_value()``."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QEvent, QObject, Qt, Signal
from PySide6.QtGui import QWheelEvent
from PySide6.QtWidgets import (
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QMenu,
    QToolButton,
    QWidget,
)

from so8t_engine.i18n import _
from so8t_gui.forms.check_box import CheckBox
from so8t_gui.forms.fields import FieldSpec, format_value
from so8t_gui.forms.numbers import NumberEdit, parse_number


class PlainCombo(QComboBox):
    """A combo box that leaves the wheel to the page while it has no focus."""

    def wheelEvent(self, event: QWheelEvent) -> None:
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()


class Editor(QWidget):
    """Base of the editors: a row of widgets around one that takes the focus.

    ``edited`` is emitted for a person's changes only, never for `set_value`.
    """

    edited = Signal()
    focused = Signal()

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spec = spec
        self._row = QHBoxLayout(self)
        self._row.setContentsMargins(0, 0, 0, 0)
        self._row.setSpacing(4)

    def _add(self, widget: QWidget, stretch: int = 0) -> None:
        widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        if not isinstance(widget, QToolButton):
            widget.setAccessibleName(_(self.spec.title))
            widget.setAccessibleDescription(_(self.spec.help))
            widget.setObjectName(self.spec.path)
            self.setFocusProxy(widget)
            widget.installEventFilter(self)
        self._row.addWidget(widget, stretch)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.FocusIn:
            self.focused.emit()
        return super().eventFilter(watched, event)

    def value(self) -> Any:  # noqa: ANN401  (whatever the field holds, or the text that is no such thing)
        raise NotImplementedError

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        raise NotImplementedError


class NumberEditor(Editor):
    """Whole numbers and floats."""

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(spec, parent)
        self._edit = NumberEdit(spec)
        self._edit.setMinimumWidth(120)
        self._edit.edited.connect(self.edited)
        self._add(self._edit, 1)

    def value(self) -> int | float | str | None:
        number = self._edit.number()
        return "" if number is None and not self.spec.optional else number

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        self._edit.set_number(value)


class BoolEditor(Editor):
    """Yes or no."""

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(spec, parent)
        self._box = CheckBox()
        self._box.clicked.connect(self.edited)
        self._add(self._box)
        self._row.addStretch(1)

    def value(self) -> bool:
        return self._box.isChecked()

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        self._box.setChecked(bool(value))


class ChoiceEditor(Editor):
    """One of a few words, shown as they stand in the file."""

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(spec, parent)
        self._combo = PlainCombo()
        if spec.optional:
            self._combo.addItem(_("not set"), None)
        for choice in spec.choices:
            self._combo.addItem(choice, choice)
        # Not `activated`, which arrow keys and the wheel do not send.
        self._combo.currentIndexChanged.connect(self._on_index)
        self._quiet = False
        self._add(self._combo, 1)

    def _on_index(self) -> None:
        if not self._quiet:
            self.edited.emit()

    def value(self) -> str | None:
        data: str | None = self._combo.currentData()
        return data

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        self._quiet = True
        self._combo.setCurrentIndex(self._combo.findData(value))
        self._quiet = False


class TextEditor(Editor):
    """Text, possibly a path to pick, possibly unset."""

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(spec, parent)
        self._line = QLineEdit()
        self._line.textEdited.connect(self.edited)
        if spec.optional:
            self._line.setPlaceholderText(_("not set"))
        self._add(self._line, 1)
        if spec.picks:
            self._add_picker(spec.picks)

    def _add_picker(self, picks: str) -> None:
        button = QToolButton()
        button.setText("…")
        button.setAccessibleName(_("Choose a file or folder for %(field)s") % {"field": _(self.spec.title)})
        button.setToolTip(_("Choose…"))
        if picks == "either":
            menu = QMenu(button)
            menu.addAction(_("File…"), self._pick_file)
            menu.addAction(_("Folder…"), self._pick_folder)
            # Not setMenu: its arrow would lie across the dots.
            button.clicked.connect(lambda: menu.popup(button.mapToGlobal(button.rect().bottomLeft())))
        else:
            button.clicked.connect(self._pick_folder if picks == "folder" else self._pick_file)
        self._add(button)

    def _pick_file(self) -> None:
        chosen, _filter = QFileDialog.getOpenFileName(self, _(self.spec.title), self._line.text())
        self._take(chosen)

    def _pick_folder(self) -> None:
        self._take(QFileDialog.getExistingDirectory(self, _(self.spec.title), self._line.text()))

    def _take(self, chosen: str) -> None:
        if chosen:
            self._line.setText(chosen)
            self.edited.emit()

    def value(self) -> str | None:
        text = self._line.text().strip()
        return None if self.spec.optional and not text else text

    def set_value(self, value: Any) -> None:  # noqa: ANN401
        self._line.setText(format_value(value))
        self._line.setCursorPosition(0)


class ListEditor(TextEditor):
    """A list, its entries parted by commas; empty where there is no entry."""

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(spec, parent)
        if not spec.default:
            self._line.setPlaceholderText(_("none"))

    def value(self) -> Any:  # noqa: ANN401
        parts = [part.strip() for part in self._line.text().replace("、", ",").split(",")]
        entries = [part for part in parts if part]
        if self.spec.kind in {"ints", "floats"}:
            return [parse_number(entry, whole=self.spec.kind == "ints") for entry in entries]
        return entries


_EDITORS: dict[str, type[Editor]] = {
    "int": NumberEditor,
    "float": NumberEditor,
    "bool": BoolEditor,
    "choice": ChoiceEditor,
    "text": TextEditor,
    "ints": ListEditor,
    "floats": ListEditor,
    "texts": ListEditor,
}


def make_editor(spec: FieldSpec, parent: QWidget | None = None) -> Editor:
    """The editor for a setting."""
    return _EDITORS[spec.kind](spec, parent)
