"""A spin box that accepts any text, so that a wrong one can be explained instead of refused."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

from PySide6.QtCore import Signal
from PySide6.QtGui import QValidator, QWheelEvent
from PySide6.QtWidgets import QAbstractSpinBox, QDoubleSpinBox, QWidget

from so8t_engine.i18n import _
from so8t_gui.forms.fields import FieldSpec, format_value

_LADDER = (Decimal(1), Decimal(2), Decimal(5), Decimal(10))


def parse_number(text: str, whole: bool) -> int | float | str | None:
    """The number that ``text`` says; None when empty; ``text`` itself when it says none."""
    text = text.strip()
    if not text:
        return None
    try:
        return int(text) if whole else float(text)
    except ValueError:
        return text


def _log_step(value: Decimal, up: bool) -> Decimal:
    """The next of …, 1, 2, 5, 10, 20, 50, … times a power of ten."""
    power = Decimal(1).scaleb(value.adjusted())
    mantissa = value / power
    if up:
        return next(rung for rung in _LADDER if rung > mantissa) * power
    below = [rung for rung in _LADDER if rung < mantissa]
    return below[-1] * power if below else Decimal(5) * power / 10


def stepped(spec: FieldSpec, value: float | None, steps: int) -> float | int:
    """``value`` moved by ``steps`` within the field's bounds.

    A linear step is a tenth of the value's magnitude, at least 1 for whole numbers; a logarithmic field
    walks 1, 2, 5, 10.
    """
    whole = spec.kind == "int"
    if value is None:
        start = spec.default if spec.default is not None else spec.minimum
        return int(start or 0) if whole else float(start or 0.0)
    current = Decimal(repr(value))
    for _step in range(abs(steps)):
        up = steps > 0
        if spec.log and current > 0:
            moved = _log_step(current, up)
        else:
            magnitude = Decimal(1).scaleb((current.adjusted() if current else 0) - 1)
            # Stepping down from a power of ten goes by the finer step: 1000 → 990, not 900.
            if not up and current > 0 and current == magnitude * 10:
                magnitude /= 10
            step = max(magnitude, Decimal(1)) if whole else magnitude
            moved = (current + (step if up else -step)).quantize(step, ROUND_HALF_EVEN)
        if spec.minimum is not None:
            low = Decimal(repr(spec.minimum))
            moved = current if spec.open_minimum and moved <= low else max(moved, low)
        if spec.maximum is not None:
            high = Decimal(repr(spec.maximum))
            moved = current if spec.open_maximum and moved >= high else min(moved, high)
        current = moved
    return int(current) if whole else float(current)


class NumberEdit(QDoubleSpinBox):
    """A number, whole or not, possibly unset. The text is the truth; Qt's own value is not used."""

    edited = Signal()

    def __init__(self, spec: FieldSpec, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._spec = spec
        self._shown = ""
        self.setKeyboardTracking(True)
        self.setRange(-1e300, 1e300)
        self.lineEdit().setTextMargins(8, 0, 0, 0)
        self.lineEdit().textEdited.connect(self._on_text)
        if spec.optional:
            self.lineEdit().setPlaceholderText(_("not set"))
        self._show("")

    def number(self) -> int | float | str | None:
        """The number, None when unset, or the text when it is no number."""
        return parse_number(self._shown, self._spec.kind == "int")

    def set_number(self, value: int | float | str | None) -> None:
        """Show ``value`` without a signal."""
        self._show(format_value(value))

    def _show(self, text: str) -> None:
        self._shown = text
        self.lineEdit().setText(text)

    def _on_text(self, text: str) -> None:
        self._shown = text
        self.edited.emit()

    def stepBy(self, steps: int) -> None:
        current = self.number()
        if isinstance(current, str):
            return
        try:
            moved = stepped(self._spec, current, steps)
        except (ArithmeticError, ValueError):  # nan and infinity have no next value
            return
        self._show(format_value(moved))
        self.edited.emit()

    def stepEnabled(self) -> QAbstractSpinBox.StepEnabledFlag:
        flags = QAbstractSpinBox.StepEnabledFlag
        return flags.StepUpEnabled | flags.StepDownEnabled

    def validate(self, text: str, position: int) -> tuple[QValidator.State, str, int]:
        return QValidator.State.Acceptable, text, position

    def valueFromText(self, text: str) -> float:
        number = parse_number(text, whole=False)
        return number if isinstance(number, float) else self.value()

    def textFromValue(self, value: float) -> str:
        return self._shown

    def wheelEvent(self, event: QWheelEvent) -> None:
        # Without focus the wheel belongs to the page.
        if self.hasFocus():
            super().wheelEvent(event)
        else:
            event.ignore()
