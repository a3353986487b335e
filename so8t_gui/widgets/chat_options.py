"""How a question is answered: which sides, adapter, gate, temperature and length."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QDoubleSpinBox, QHBoxLayout, QSlider, QSpinBox, QWidget

from so8t_engine.i18n import _
from so8t_gui.forms.check_box import CheckBox
from so8t_gui.widgets.heads_view import plain


class ChatOptions(QWidget):
    """The row of choices below the answers."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.adapter = CheckBox(_("LoRA adapter"))
        self.adapter.setChecked(True)
        self.own_g = CheckBox(_("g by hand"))
        self.own_g.setToolTip(
            _("Off: the gate as it was trained. On: 0 is the base's hidden states, 1 is M alone.")
        )
        self.g = QSlider(Qt.Orientation.Horizontal)
        self.g.setRange(0, 100)
        self.g.setValue(83)
        self.g.setAccessibleName(_("Gate g"))
        self.g_label = plain("", "value")
        self.g_label.setMinimumWidth(self.fontMetrics().horizontalAdvance("0.00  "))
        self.g.valueChanged.connect(self._show_g)
        self.own_g.toggled.connect(self._show_g)
        self.compare = CheckBox(_("base too"))
        self.compare.setChecked(True)
        self.temperature = QDoubleSpinBox()
        self.temperature.setRange(0.0, 2.0)
        self.temperature.setSingleStep(0.1)
        self.temperature.setAccessibleName(_("Temperature"))
        self.length = QSpinBox()
        self.length.setRange(1, 4096)
        self.length.setValue(96)
        self.length.setAccessibleName(_("Longest answer"))
        for box in (self.temperature, self.length):
            box.lineEdit().setTextMargins(6, 0, 0, 0)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for widget in (self.compare, self.adapter, self.own_g):
            row.addWidget(widget)
        row.addWidget(self.g, 1)
        row.addWidget(self.g_label)
        row.addWidget(plain(_("Temperature"), "muted"))
        row.addWidget(self.temperature)
        row.addWidget(plain(_("Tokens"), "muted"))
        row.addWidget(self.length)
        self._show_g()

    def _show_g(self) -> None:
        by_hand = self.own_g.isChecked()
        self.g.setEnabled(by_hand)
        self.g_label.setText(f"{self.g.value() / 100:.2f}" if by_hand else _("trained"))

    def chosen(self) -> dict[str, Any]:
        """What is sent along with the question."""
        return {
            "sides": ["base", "tuned"] if self.compare.isChecked() else ["tuned"],
            "adapter": self.adapter.isChecked(),
            "g": self.g.value() / 100 if self.own_g.isChecked() else None,
            "temperature": self.temperature.value(),
            "max_new_tokens": self.length.value(),
        }
